"""Random plans on the budget: the control of every searcher."""

from __future__ import annotations

from typing import Any

import numpy as np

from amc.agents.baselines.base import Baseline
from amc.envs.rollout import Proposal


class RandomSearch(Baseline):
    """Uniformly random actions: random plans on the budget."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._generator = np.random.default_rng(self._seed)

    def ask(self, count: int) -> list[Proposal]:
        """``count`` random plans, each under a budget of its own where there is a range."""
        return [self._draw() for _ in range(count)]

    def _draw(self) -> Proposal:
        budget = self._problem.budgets.draw(self._generator)
        actions = self._generator.uniform(-1.0, 1.0, len(self._problem.units))
        return self._problem.decode(actions, budget)
