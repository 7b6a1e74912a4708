"""The planner: on one budget, the plan that the critic likes best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from amc.agents.expert.critic import PlanCritic
from amc.envs.action_mapping import keep_on_log_scale
from amc.tracing.units import dense_widths

if TYPE_CHECKING:
    from amc.cost.budget import Budget
    from amc.envs.problem import PruningProblem

_POPULATION = 256
_ELITE = 16
_RETURNED = 64
_ROUNDS = 6
_FIRST_STD, _STD_DECAY, _LAST_STD = 0.5, 0.6, 0.2
_BISECTIONS = 25


class Planner:
    """Searches a critic instead of the network: thousands of plans in some milliseconds.

    Wishes are scaled onto the budget as :class:`amc.cost.projection.Projector` does it, all of a
    population at once, but not rounded to widths. The method is an elitist cross-entropy search
    (Rubinstein 1999): the best of a population, and normal perturbations of half of their entries,
    are the next one, with a deviation that shrinks by rounds.
    """

    def __init__(self, problem: PruningProblem, generator: np.random.Generator) -> None:
        self._problem = problem
        self._generator = generator
        self._dense = np.array(dense_widths(problem.units), dtype=np.float64)

    def improve(
        self, critic: PlanCritic, budget: Budget, starts: np.ndarray, optimism: float
    ) -> np.ndarray:
        """Actions ``(n, units)``: the best by :meth:`PlanCritic.optimistic`, best first, and others
        near them, because many are the same plan once they are rounded.

        ``starts`` are actions ``(k, units)`` around which the first population is drawn.
        """
        population = starts
        for round_ in range(_ROUNDS):
            std = _FIRST_STD * _STD_DECAY**round_
            population = self._spread(population[:_ELITE], std, _POPULATION)
            worth = critic.optimistic(self.relaxed(population, budget), optimism)
            population = population[np.argsort(-worth, kind="stable")]
        return self._spread(population[:_ELITE], _LAST_STD, _RETURNED)

    def relaxed(self, actions: np.ndarray, budget: Budget) -> np.ndarray:
        """Kept fractions ``(n, units)``: the wishes, scaled onto the budget, not rounded."""
        least = self._problem.least_keep
        wishes = keep_on_log_scale(least, actions)
        if not budget.limits:
            return wishes
        low, high = np.zeros(len(wishes)), -np.log(wishes.min(axis=1))
        fits = self._fits(np.ones_like(wishes), budget)
        low = np.where(fits, high, np.log(least.min()))
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            fits = self._fits(np.clip(np.exp(middle)[:, None] * wishes, least, 1.0), budget)
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        scaled: np.ndarray = np.clip(np.exp(low)[:, None] * wishes, least, 1.0)
        return scaled

    def _fits(self, keeps: np.ndarray, budget: Budget) -> np.ndarray:
        fits: np.ndarray = budget.slack(keeps * self._dense) >= 0
        return fits

    def _spread(self, centres: np.ndarray, std: float, count: int) -> np.ndarray:
        """The centres themselves, and perturbed copies of them: ``count`` in all."""
        copies = centres[self._generator.integers(len(centres), size=count - len(centres))]
        changed = self._generator.random(copies.shape) < 0.5
        noise = std * self._generator.standard_normal(copies.shape)
        return np.concatenate([centres, np.clip(copies + changed * noise, -1.0, 1.0)])
