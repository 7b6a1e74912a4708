"""CMA-ES on the actions of a whole plan."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from amc.agents.baselines import Baseline
from amc.agents.replay import Start
from amc.envs.pruning import Episode, PruningEnv
from amc.envs.walk import Proposal
from amc.errors import ConfigError

try:
    from cmaes import CMA
except ImportError:
    raise ConfigError("agent 'cma-es' needs cmaes: pip install amc-agent[compare]") from None

_SIGMA = 0.3
"""First deviation, on [-1, 1]. Best of .15, .2, .3, .4, .6 and .8 after 80 and 150 plans of
ResNet-20 at half the MACs, on a regression of its KL over recorded plans."""


class EvolutionSearch(Baseline):
    """CMA-ES (Hansen, The CMA Evolution Strategy: A Tutorial, 2016) by the library ``cmaes``.

    Starts around the reference plan, or that of ``start``, which is itself the first proposal, with
    the library's default population. It learns whenever a generation of plans has been told, in
    whatever portions they were asked for.
    """

    def __init__(self, env: PruningEnv, seed: int, start: Start | None = None) -> None:
        self._env = env
        keeps = start.plan(env.budget).wishes if start else env.reference_keep()
        self._start: np.ndarray | None = env.encode(keeps)
        bounds = np.tile([-1.0, 1.0], (len(self._start), 1))
        self._optimiser = CMA(self._start, _SIGMA, bounds, seed=seed)
        self._asked: deque[np.ndarray] = deque()
        self._told: list[tuple[np.ndarray, float]] = []

    def ask(self, count: int) -> list[Proposal]:
        """``count`` samples of the present distribution."""
        actions = [self._optimiser.ask() for _ in range(count)]
        if self._start is not None:
            actions[0], self._start = self._start, None
        self._asked += actions
        return [self._env.decode(action) for action in actions]

    def tell(self, episodes: Sequence[Episode]) -> None:
        """Move the distribution once a generation is complete."""
        self._told += [(self._asked.popleft(), -episode.reward) for episode in episodes]
        size = self._optimiser.population_size
        while len(self._told) >= size:
            generation, self._told = self._told[:size], self._told[size:]
            self._optimiser.tell(generation)
