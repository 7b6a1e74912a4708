"""Searchers: the agents and the baselines behind one interface, made by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from amc.errors import ConfigError
from amc.models.factory import import_file
from amc.presets import in_file
from amc.registry import AGENTS

if TYPE_CHECKING:
    from amc.agents.policy import Policy
    from amc.agents.warm_start import Start
    from amc.envs.problem import PruningProblem
    from amc.envs.rollout import Proposal
    from amc.records.episode import Episode
    from amc.utils.settings import Settings


class Agent(Protocol):
    """Something that proposes plans, and is told what they are worth.

    It is made of a :class:`~amc.envs.problem.PruningProblem`, a seed that determines everything
    random in it, its settings (an object of the class that its entry in
    :data:`amc.registry.AGENTS` names; None: the defaults), and where it begins (None: where it
    always does). A class of a user's, ``--agent path/to/file.py:Class``, is made of the same.
    """

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
    name: str,
    problem: PruningProblem,
    settings: Settings | None = None,
    seed: int = 0,
    start: Start | None = None,
) -> Agent:
    """The searcher of that name, of :data:`amc.registry.AGENTS` or in a user's file.

    No global generator is touched. Raises :class:`ConfigError` for another name, for one that
    begins nowhere else than where it always does, for one that searches under one budget where
    there is a range, and where a library that it needs is not installed.
    """
    if in_file(name):
        made: Agent = _from_file(name)(problem, seed, settings, start)
        return made
    entry = AGENTS.entry(name)
    if start is not None and not entry.traits["warm_start"]:
        others = ", ".join(other.name for other in AGENTS if other.traits["warm_start"])
        raise ConfigError(
            f"agent {name!r} starts from no policy or plan; choose one of {others}, or 0 episodes"
        )
    if not entry.traits["ranges"] and len(problem.budgets.spread(2)) > 1:
        raise ConfigError(f"agent {name!r} searches under one budget; give one, or take expert")
    agent: Agent = entry.load()(problem, seed, settings, start)
    return agent


def _from_file(name: str) -> Any:
    path, _, attribute = name.rpartition(":")
    found = getattr(import_file(Path(path).expanduser()), attribute, None)
    if not callable(found):
        raise ConfigError(f"agent {name!r}: {path} has no class {attribute!r}")
    return found
