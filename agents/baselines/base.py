"""What the baselines have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from amc.envs.problem import PruningProblem
from amc.records.episode import Episode

if TYPE_CHECKING:
    from amc.agents.warm_start import Start
    from amc.utils.settings import Settings


class Baseline:
    """A searcher that leaves no policy and has nothing to plot.

    See :class:`amc.agents.registry.Agent`.
    """

    policy = None

    def __init__(
        self,
        problem: PruningProblem,
        seed: int = 0,
        settings: Settings | None = None,  # noqa: ARG002 (has none)
        start: Start | None = None,
    ) -> None:
        self._problem, self._seed, self._start = problem, seed, start

    def tell(self, episodes: Sequence[Episode]) -> None:
        """Nothing to learn."""

    def diagnostics(self) -> dict[str, float]:
        """Nothing."""
        return {}
