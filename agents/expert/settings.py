"""Settings of expert iteration."""

from __future__ import annotations

from pydantic import Field

from amc.utils.settings import Settings


class ExpertConfig(Settings):
    """Expert iteration: a planner on a Gaussian-process critic, and an actor that learns it."""

    warmup_episodes: int = Field(6, ge=2)
    """Episodes before the critic is asked: the plan to begin with (the reference plan, or a
    policy's), the uniform one, and plans around either in turn."""
    start_std: float = Field(0.15, ge=0)
    """Standard deviation of the actions around those of the plan to begin with."""
    noise_std: float = Field(0.3, ge=0)
    """The same around the uniform plan's."""
    optimism: float = Field(1.0, ge=0)
    """How many of the critic's standard deviations are added to its mean."""
    range_optimism: float = Field(2.0, ge=0)
    """The same over a range of budgets, of which more is unknown, and for longer."""
    hidden: tuple[int, ...] = (64, 64)
    """Widths of the hidden layers of each of the actor's members."""
    actor_members: int = Field(8, ge=2)
    """Networks that the actor consists of; what they disagree on is left as in the reference
    plan."""
    actor_lr: float = Field(1e-3, gt=0)
    actor_decay: float = Field(0.1, ge=0)
    """Weight decay."""
    gradient_steps: int = Field(40, ge=0)
    """The actor's updates after each episode."""
    range_gradient_steps: int = Field(160, ge=0)
    """The same over a range of budgets, at which the best plans are unlike one another."""
    batch_size: int = Field(64, ge=1)
    memory: int = Field(32, ge=1)
    """Planned rollouts that the actor learns from: the latest ones, by the best critics."""
    range_memory: int = Field(64, ge=2)
    """The same over a range of budgets: one rollout under each of so many, planned anew in turn."""
