"""Searchers: DDPG and its baselines behind one interface. Only here is stable-baselines3 known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from amc.errors import ConfigError

if TYPE_CHECKING:
    from amc.agents.policy import Policy
    from amc.config import AgentConfig
    from amc.envs.pruning import Episode, PruningEnv
    from amc.envs.walk import Proposal

__all__ = ["Agent", "make_agent"]


class Agent(Protocol):
    """Something that proposes plans, and is told what they are worth."""

    @property
    def policy(self) -> Policy | None:
        """What was learned, replayable elsewhere; None where nothing is."""

    def ask(self, count: int) -> list[Proposal]:
        """Up to ``count`` plans, to be evaluated side by side; none where there is no other."""

    def tell(self, episodes: Sequence[Episode]) -> None:
        """Learn from the episodes that became of the proposals, in the same order."""

    def diagnostics(self) -> dict[str, float]:
        """What to plot beside the rewards: numbers by TensorBoard tag."""


def make_agent(
    name: str, env: PruningEnv, settings: AgentConfig, seed: int, policy: Policy | None = None
) -> Agent:
    """The searcher ``ddpg``, ``random`` or ``uniform``.

    ``seed`` determines everything that is random; no global generator is touched. ``policy`` is
    what it starts from. Raises :class:`ConfigError` for another name, and for one that learns no
    policy but is given one.
    """
    if name == "ddpg":
        from amc.agents.ddpg import DDPGAgent

        return DDPGAgent(env, settings, seed, policy)
    if policy is not None:
        raise ConfigError(f"agent {name!r} starts from no policy; choose ddpg, or 0 episodes")

    from amc.agents.baselines import RandomSearch, Uniform

    if name == "random":
        return RandomSearch(env, seed)
    if name == "uniform":
        return Uniform(env)
    raise ConfigError(f"agent {name!r} is unknown; choose from ddpg, random, uniform")
