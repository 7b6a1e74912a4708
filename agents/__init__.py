"""Searchers: the agents and the baselines behind one interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, get_args

from amc.config import AgentName
from amc.errors import ConfigError

if TYPE_CHECKING:
    from amc.agents.policy import Policy
    from amc.agents.replay import Start
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
        """Learn from the episodes that became of the proposals, in the same order.

        The last proposals of a search may have become of none.
        """

    def diagnostics(self) -> dict[str, float]:
        """What to plot beside the rewards: numbers by TensorBoard tag."""


def make_agent(
    name: str, env: PruningEnv, settings: AgentConfig, seed: int, start: Start | None = None
) -> Agent:
    """The searcher of that name, one of :data:`amc.config.AgentName`.

    ``seed`` determines everything that is random; no global generator is touched. ``start`` is
    where it begins. Raises :class:`ConfigError` for another name, for one that begins nowhere else
    than where it always does, and where a library that it needs is not installed.
    """
    from amc.agents import baselines

    if name == "expert":
        from amc.agents.expert import ExpertIteration

        return ExpertIteration(env, settings.expert, seed, start)
    if name == "ddpg":
        from amc.agents.ddpg import DDPGAgent

        return DDPGAgent(env, settings.ddpg, seed, start)
    if start is not None and name != "cma-es":
        raise ConfigError(
            f"agent {name!r} starts from no policy or plan; choose expert, ddpg or cma-es, or 0 "
            "episodes"
        )
    if name == "uniform":
        return baselines.Uniform(env)
    if name == "reference":
        return baselines.Reference(env)
    if name == "random":
        return baselines.RandomSearch(env, seed)
    if name == "knapsack":
        from amc.agents.knapsack import Knapsack

        return Knapsack(env, env.importance)
    if name in get_args(AgentName) and len(env.budgets.spread(2)) > 1:
        raise ConfigError(f"agent {name!r} searches under one budget; give one, or take expert")
    if name == "greedy":
        from amc.agents.greedy import GreedySearch

        return GreedySearch(env)
    if name == "cma-es":
        from amc.agents.evolution import EvolutionSearch

        return EvolutionSearch(env, seed, start)
    if name == "tpe" or name == "gp":
        from amc.agents.bayesian import BayesianSearch

        return BayesianSearch(env, name, seed)
    raise ConfigError(f"agent {name!r} is unknown; choose from {', '.join(get_args(AgentName))}")
