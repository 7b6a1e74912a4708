"""Settings of DDPG."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from amc.utils.settings import Settings


class DDPGConfig(Settings):
    """DDPG and its exploration; the preset ``amc-paper`` holds the paper's values."""

    warmup_episodes: int = Field(8, ge=0)
    """Episodes before the actor learns."""
    warmup: Literal["noise", "uniform"] = "noise"
    """How they are played: the usual exploration around the untrained actor, or uniformly random
    actions (the paper)."""
    start_uniform: bool = True
    """Play the uniform plan in the very first episode, so that no search ends below it."""
    gradient_steps: int = Field(100, ge=-1)
    """Updates after each episode; -1: one for each transition of the episode."""
    batch_size: int = Field(64, ge=1)
    buffer_episodes: int = Field(2000, ge=1)
    """Episodes that the replay buffer holds."""
    hidden: tuple[int, ...] = (300, 300)
    actor_lr: float = Field(1e-4, gt=0)
    critic_lr: float = Field(1e-3, gt=0)
    tau: float = Field(0.01, gt=0, le=1)
    """Step of the target networks towards the learned ones."""
    discount: float = Field(1.0, ge=0, le=1)
    bootstrap: bool = False
    """Add the target critic's value of the next state to the credited reward (the paper), or
    regress on the episode's final reward alone (Monte-Carlo; our default)."""
    noise_std: float = Field(0.5, ge=0)
    """Standard deviation of the truncated-normal exploration, as a fraction of half the action
    range, when the warm-up ends."""
    noise_decay: float = Field(0.97, gt=0, le=1)
    """Factor on the deviation for each episode after the warm-up."""
    noise_floor: float = Field(0.1, ge=0)
    """Least deviation."""
    shaping: Literal["rank", "baseline"] = "rank"
    """What the critic regresses on: normal scores of the rewards' ranks among all episodes (free of
    the reward's scale), or rewards less their moving average (the paper)."""
    baseline_momentum: float = Field(0.5, ge=0, lt=1)
    """Weight of the old value in the moving-average reward baseline."""
