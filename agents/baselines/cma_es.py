"""CMA-ES on the actions of a whole plan."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from amc.agents.baselines.base import Baseline
from amc.envs.rollout import Proposal
from amc.errors import ConfigError
from amc.records.episode import Episode

try:
    from cmaes import CMA
except ImportError:
    raise ConfigError("agent 'cma-es' needs cmaes: pip install amc-agent[compare]") from None

_SIGMA = 0.3
"""First deviation, on [-1, 1]. Best of .15, .2, .3, .4, .6 and .8 after 80 and 150 plans of
ResNet-20 at half the MACs, on a regression of its KL over recorded plans."""


class CMAES(Baseline):
    """CMA-ES (Hansen, The CMA Evolution Strategy: A Tutorial, 2016) by the library ``cmaes``.

    Starts around the reference plan, or that of ``start``, which is itself the first proposal, with
    the library's default population. It learns whenever a generation of plans has been told, in
    whatever portions they were asked for.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        problem, start = self._problem, self._start
        keeps = start.plan(problem.budget).wishes if start else problem.reference_keep()
        self._first: np.ndarray | None = problem.encode(keeps)
        bounds = np.tile([-1.0, 1.0], (len(self._first), 1))
        self._optimiser = CMA(self._first, _SIGMA, bounds, seed=self._seed)
        self._asked: deque[np.ndarray] = deque()
        self._told: list[tuple[np.ndarray, float]] = []

    def ask(self, count: int) -> list[Proposal]:
        """``count`` samples of the present distribution."""
        actions = [self._optimiser.ask() for _ in range(count)]
        if self._first is not None:
            actions[0], self._first = self._first, None
        self._asked += actions
        return [self._problem.decode(action) for action in actions]

    def tell(self, episodes: Sequence[Episode]) -> None:
        """Move the distribution once a generation is complete."""
        self._told += [(self._asked.popleft(), -episode.reward) for episode in episodes]
        size = self._optimiser.population_size
        while len(self._told) >= size:
            generation, self._told = self._told[:size], self._told[size:]
            self._optimiser.tell(generation)
