"""The plan that loses the least summed importance for its cost: no search, one evaluation."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from amc.agents.baselines.fixed_plans import FixedPlans
from amc.errors import ConfigError
from amc.tracing.units import kept_fractions

if TYPE_CHECKING:
    from amc.cost.budget import Budget
    from amc.envs.rollout import Proposal
    from amc.tracing.units import Unit


class Knapsack(FixedPlans):
    """The plan of :func:`fill_knapsack` by the importance that ranks channels.

    Raises :class:`ConfigError` where nothing is bounded.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        if not self._problem.budget.limits:
            raise ConfigError("agent 'knapsack' fills a budget; give one, such as flops=0.5")

    def plan(self, budget: Budget) -> Proposal:
        """See :class:`FixedPlans`."""
        units, scores = self._problem.units, self._problem.prior.importance
        keeps = kept_fractions(fill_knapsack(units, scores, budget), units)
        return self._problem.decode(self._problem.encode(keeps), budget)


def fill_knapsack(
    units: Sequence[Unit], scores: Sequence[np.ndarray], budget: Budget
) -> tuple[int, ...]:
    """Allowed widths within the budget that lose little of the summed scores.

    From the dense network, whichever unit loses the least for what it saves now goes down by a
    step, until every bound is met; then whichever gains the most for what it adds goes up again,
    until nothing fits. A unit of width k keeps its k best groups. What is saved is counted in those
    bounds that are not met yet, each as a fraction of its limit.
    """
    filling = _Filling(units, scores, budget)
    filling.shrink()
    filling.fill()
    return tuple(filling.widths())


class _Filling:
    """A plan on the way, as the index of each unit's width among its allowed ones."""

    def __init__(self, units: Sequence[Unit], scores: Sequence[np.ndarray], budget: Budget) -> None:
        self._grids = [unit.widths for unit in units]
        self._ranks = [len(grid) - 1 for grid in self._grids]
        self._budget = budget
        kept = [np.concatenate([[0.0], np.cumsum(np.sort(score)[::-1])]) for score in scores]
        self._values = [value[list(grid)] for value, grid in zip(kept, self._grids, strict=True)]

    def widths(self) -> list[int]:
        return [grid[rank] for grid, rank in zip(self._grids, self._ranks, strict=True)]

    def shrink(self) -> None:
        """Step down, least loss for its saving first, until the budget is met.

        Costs are products of widths, so that the saving of a unit only falls while others shrink:
        a price once computed is a lower bound of the present one, and only the lowest is renewed.
        """
        prices = [(self._price(unit, -1), unit) for unit in range(len(self._ranks))]
        heapq.heapify(prices)
        while not self._budget.met(self.widths()):
            _, unit = heapq.heappop(prices)
            price = self._price(unit, -1)
            if not prices or price <= prices[0][0]:
                self._ranks[unit] -= 1
                price = self._price(unit, -1)
            heapq.heappush(prices, (price, unit))

    def fill(self) -> None:
        """Step up, most gain for its cost first, while anything fits."""
        while fitting := [unit for unit in range(len(self._ranks)) if self._fits(unit)]:
            self._ranks[max(fitting, key=lambda unit: self._price(unit, 1))] += 1

    def _price(self, unit: int, step: int) -> float:
        """Importance for cost of one step of ``unit``; infinite where it has no step or saves none.

        Cost counts in the bounds that are broken, and in all of them where none is.
        """
        rank = self._ranks[unit] + step
        if not 0 <= rank < len(self._grids[unit]):
            return np.inf
        now = self.widths()
        then = list(now)
        then[unit] = self._grids[unit][rank]
        cost, limits = self._budget.cost, self._budget.limits
        broken = [q for q, limit in limits.items() if cost.function(q)(now) > limit] or list(limits)
        change = sum(
            abs(cost.function(q)(then) - cost.function(q)(now)) / limits[q] for q in broken
        )
        loss = abs(self._values[unit][rank] - self._values[unit][self._ranks[unit]])
        return float(loss / change) if change > 0 else np.inf

    def _fits(self, unit: int) -> bool:
        if self._ranks[unit] + 1 == len(self._grids[unit]):
            return False
        widths = self.widths()
        widths[unit] = self._grids[unit][self._ranks[unit] + 1]
        return self._budget.met(widths)
