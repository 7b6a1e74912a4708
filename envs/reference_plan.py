"""The reference plan: where a search begins, and what a policy's actions are added to.

Nothing is asked of the images that score plans. If every unit loses s (1 / keep - 1) and costs
c · keep, the least loss on a budget is where keep is proportional to √(s / c) (a Lagrange
multiplier, solved). Of the estimates of s (:class:`~amc.envs.sensitivity.Sensitivity`) the one is
taken whose plan loses least on training images. All of them look at units in the dense network;
what a little more of each is worth when all are pruned is then measured in this plan, and it is
changed that way as long as it loses less for it: multiplicative weights (Kivinen and Warmuth 1997)
with a line search.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from amc.cost.projection import project
from amc.envs.sensitivity import Sensitivity, relative, savings
from amc.errors import EvaluationError

if TYPE_CHECKING:
    from amc.cost.budget import Budget
    from amc.cost.table import CostTable
    from amc.tracing.units import Unit

Widths = tuple[int, ...]
Lost = Callable[[Widths], float]
"""What the network loses at some widths, on training images."""

TUNED = 3
"""Budgets of a range for which a plan is made: those between them are near to one."""
ROUNDS = 2
"""How often a plan is changed at most."""
STEPS = (0.1, 0.2)
"""Powers of the growth that the keeps are multiplied with: less than 1/2, which would be exact if
the loss were as it is taken to be above, because first-order gains promise more than they hold."""
_MOST = 3.0
"""How many times the median a unit's growth counts at most; and at least, the other way."""
_WHOLE = 0.5
"""Growth of a unit that keeps all: no measurement says that it should, only the estimate."""


@dataclass(frozen=True, eq=False)
class Tuned:
    """What lost least on one budget."""

    budget: Budget
    squared: np.ndarray
    """(units,) what a unit costs in loss, by the best estimate."""
    factors: np.ndarray
    """(units,) on the keeps of the plan that follows from it."""


class ReferencePlan:
    """Wishes that lose least for what they save, as far as that is known.

    Under a budget for which nothing was tuned those factors count that belong to the nearest one.
    Where no sensitivity is known, all wishes are the same.
    """

    def __init__(self, units: Sequence[Unit], cost: CostTable, tuned: Sequence[Tuned] = ()) -> None:
        self._units, self._tuned = units, tuned
        self._savings: dict[str, np.ndarray] = {
            name: savings(units, cost, name) for name in cost.quantities
        }

    def wishes(self, budget: Budget) -> np.ndarray:
        """(units,) kept fractions, at most 1, not yet on ``budget``."""
        if not self._tuned or not budget.limits:
            return np.ones(len(self._units))
        best = min(self._tuned, key=lambda tuned: _distance(tuned.budget, budget))
        plan = project(_least_loss(best.squared, self._savings, budget), self._units, budget)
        wishes = _keeps(self._units, plan) * best.factors
        highest: np.ndarray = wishes / wishes.max()
        return highest


def tune(
    units: Sequence[Unit],
    cost: CostTable,
    sensitivity: Sensitivity,
    budget: Budget,
    lost: Lost,
    gains: Callable[[Widths], np.ndarray] | None = None,
) -> Tuned:
    """The plan on ``budget`` that loses least, of those that the module's text speaks of.

    ``gains`` says (units,) what more of each unit is worth there, NaN where it is whole
    (:func:`amc.pruning.importance.growth.growth_gains`; None: not known).
    ``lost`` is asked for as many plans as there are estimates, and for two a round (:data:`ROUNDS`
    at most); ``gains`` once a round.
    """

    def look(wishes: np.ndarray) -> tuple[float, Widths]:
        plan = project(wishes, units, budget)
        return lost(plan), plan

    saved = {name: savings(units, cost, name) for name in budget.limits}
    first = [look(_least_loss(squared, saved, budget)) for squared in sensitivity.estimates]
    best = min(range(len(first)), key=lambda i: first[i][0])
    least, plan = first[best]
    for _ in range(ROUNDS):
        if gains is None:
            break
        growth = _growth(gains(plan), _prices(units, cost, budget, plan))
        loss, changed = min(look(_keeps(units, plan) * growth**step) for step in STEPS)
        if loss >= least:
            break
        least, plan = loss, changed
    factors = _keeps(units, plan) / _keeps(units, first[best][1])
    return Tuned(budget, sensitivity.estimates[best], factors)


def numbered(lost: Lost) -> Lost:
    """``lost``, but infinite where it is no number, or raises :class:`EvaluationError`: a network
    that is pruned too hard may end there."""

    def found(widths: Widths) -> float:
        try:
            loss = lost(widths)
        except EvaluationError:
            return math.inf
        return loss if math.isfinite(loss) else math.inf

    return found


def _least_loss(squared: np.ndarray, saved: Mapping[str, np.ndarray], budget: Budget) -> np.ndarray:
    """Wishes (units,) in the proportions √(s / c); several costs that are bounded count alike."""
    costs = np.mean([saved[name] for name in budget.limits], axis=0)
    wishes: np.ndarray = np.sqrt(squared / costs)
    return wishes


def _growth(gains: np.ndarray, prices: np.ndarray) -> np.ndarray:
    """(units,) what an e-fold of each unit is worth for its price, in multiples of the median."""
    worth = np.maximum(gains, 0.0) / prices  # NaN remains
    known = np.isfinite(worth)
    median = float(np.median(worth[known])) if known.any() else 0.0
    if median <= 0:
        return np.ones(len(worth))
    bounded: np.ndarray = np.clip(np.where(known, worth / median, _WHOLE), 1 / _MOST, _MOST)
    return bounded


def _prices(
    units: Sequence[Unit], cost: CostTable, budget: Budget, plan: Sequence[int]
) -> np.ndarray:
    """(units,) what an e-fold of each unit costs in ``plan``, as :func:`relative`: in the mean over
    the widths from there to the farther end of those that are allowed."""
    now, dear = np.array(plan, dtype=np.float64), []
    for name in budget.limits:
        total, prices = cost.function(name), []
        for i, unit in enumerate(units):
            other, (least, dense) = now.copy(), (unit.widths[0], unit.width)
            other[i] = least if 2 * now[i] > least + dense else dense
            slope = (total(now) - total(other)) / (now[i] - other[i])
            prices.append(slope * max(now[i], 1.0))
        dear.append(relative(np.array(prices)))
    mean: np.ndarray = np.mean(dear, axis=0)
    return mean


def _keeps(units: Sequence[Unit], plan: Sequence[int]) -> np.ndarray:
    """(units,) kept fractions; of a unit that is gone, that of one group."""
    return np.array([max(k, 1) / unit.width for k, unit in zip(plan, units, strict=True)])


def _distance(one: Budget, other: Budget) -> float:
    return sum(abs(math.log(limit / other.limits[name])) for name, limit in one.limits.items())
