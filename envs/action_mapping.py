"""How an action becomes a width, and how the budget is enforced.

``projection`` (ours): actions are wishes, scaled together onto the budget at the end.
``sequential`` (He et al. 2018, Algorithm 1): each action is clamped on the way, so that the budget
can still be reached if everything that follows is pruned to the maximum.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self, TypeVar

import numpy as np

from amc.cost.projection import Projector
from amc.errors import BudgetError, ConfigError

if TYPE_CHECKING:
    from amc.cost.budget import Budget
    from amc.cost.table import CostTable
    from amc.tracing.units import Unit


class ActionMapping(ABC):
    """Maps actions in [-1, 1] to kept fractions from each unit's minimum to 1, and to widths."""

    def __init__(self, units: Sequence[Unit], cost: CostTable, budget: Budget) -> None:
        self.units = units
        self.projector = Projector(units)
        self._cost = cost
        self._allowed = [np.array(unit.widths) for unit in units]
        self._narrowest = np.array([unit.widths[0] for unit in units])
        self.budget = self._checked(budget)

    def under(self, budget: Budget) -> Self:
        """The same mapping with another budget. Raises :class:`BudgetError` as the first did."""
        other = copy.copy(self)
        other.budget = self._checked(budget)
        return other

    def _checked(self, budget: Budget) -> Budget:
        least = self._narrowest
        if not budget.met(least):
            raise BudgetError(
                f"the budget {dict(budget.limits)} cannot be met: the narrowest network needs"
                f" {self._cost.macs(least)} MACs and {self._cost.params(least)} parameters;"
                " raise the budget or lower min_keep"
            )
        return budget

    @abstractmethod
    def wish(self, index: int, action: float) -> float:
        """The kept fraction that ``action`` asks of unit ``index``."""

    @abstractmethod
    def action(self, index: int, keep: float) -> float:
        """The inverse of :meth:`wish`, clipped to [-1, 1]."""

    def admit(self, index: int, wish: float, chosen: Sequence[int]) -> int:  # noqa: ARG002
        """The width that unit ``index`` takes for now, given the widths chosen before it."""
        return self._nearest(index, wish)

    def taken(self, index: int, action: float, width: int) -> float:  # noqa: ARG002
        """The action that unit ``index`` has seen, for the observation of the next."""
        return action

    def finish(self, wishes: np.ndarray, chosen: Sequence[int]) -> tuple[int, ...]:  # noqa: ARG002
        """The plan: one allowed width per unit, within the budget."""
        return tuple(chosen)

    @property
    def least_keep(self) -> np.ndarray:
        """(units,) the least wishes."""
        return np.array([self._least(i) for i in range(len(self.units))])

    def _nearest(self, index: int, keep: float) -> int:
        allowed = self._allowed[index]
        return int(allowed[np.argmin(np.abs(allowed - keep * self.units[index].width))])

    def _least(self, index: int) -> float:
        """The least wish: for a unit that may go altogether, clearly below its least width."""
        nothing, *others = self.units[index].widths
        least = nothing or others[0] / 4
        return least / self.units[index].width


Values = TypeVar("Values", float, np.ndarray)


def keep_on_log_scale(least: Values, action: Values) -> Values:
    """The wish of an action under ``projection``: the least keep at -1, everything at +1.

    For one unit, or for arrays (..., units).
    """
    wish: Values = least ** ((1.0 - action) / 2.0)
    return wish


class Projection(ActionMapping):
    """Wishes on a log scale: keep = least ** ((1 - action) / 2), projected at the end.

    Only the proportions of the wishes matter under a budget, and on a log scale a constant step of
    the action is a constant factor.
    """

    def wish(self, index: int, action: float) -> float:
        """-1: the unit's least keep; +1: everything."""
        return float(keep_on_log_scale(self._least(index), action))

    def action(self, index: int, keep: float) -> float:
        """See :meth:`ActionMapping.action`."""
        least = self._least(index)
        if least >= 1.0:
            return 1.0
        keep = max(keep, least)
        return float(np.clip(1.0 - 2.0 * np.log(keep) / np.log(least), -1.0, 1.0))

    def finish(self, wishes: np.ndarray, chosen: Sequence[int]) -> tuple[int, ...]:
        """Scale all wishes onto the budget; without limits they are taken as they are."""
        if not self.budget.limits:
            return tuple(chosen)
        (widths,) = self.projector(wishes[None], self.budget).tolist()
        return tuple(widths)


class Sequential(ActionMapping):
    """The paper's Algorithm 1, with the true cost function in the place of its sum of layers.

    The keep is linear in the action, as in the paper. The duty of unit t is what it must remove
    even if all later units are pruned to the maximum; what the budget allows is found by bisection
    over the allowed widths, because costs are monotone in them.
    """

    def wish(self, index: int, action: float) -> float:
        """-1: the unit's least keep; +1: everything."""
        least = self._least(index)
        return least + (1.0 - least) * (action + 1.0) / 2.0

    def action(self, index: int, keep: float) -> float:
        """See :meth:`ActionMapping.action`."""
        least = self._least(index)
        if least >= 1.0:
            return 1.0
        return float(np.clip(2.0 * (keep - least) / (1.0 - least) - 1.0, -1.0, 1.0))

    def taken(self, index: int, action: float, width: int) -> float:  # noqa: ARG002
        """That of the width: what the clamp took away did not happen."""
        return self.action(index, width / self.units[index].width)

    def admit(self, index: int, wish: float, chosen: Sequence[int]) -> int:
        """The wished width, or the largest one that leaves the budget within reach."""
        rest = [unit.widths[0] for unit in self.units[index + 1 :]]
        width = self._nearest(index, wish)
        if self.budget.met([*chosen, width, *rest]):
            return width
        allowed = self._allowed[index]
        # allowed[low] meets the budget (the minimum always does), allowed[high] does not.
        low, high = 0, int(np.searchsorted(allowed, width))
        while high - low > 1:
            middle = (low + high) // 2
            if self.budget.met([*chosen, int(allowed[middle]), *rest]):
                low = middle
            else:
                high = middle
        return int(allowed[low])


_MAPPINGS: dict[str, Callable[[Sequence[Unit], CostTable, Budget], ActionMapping]] = {
    "projection": Projection,
    "sequential": Sequential,
}


def make_action_mapping(
    name: str, units: Sequence[Unit], cost: CostTable, budget: Budget
) -> ActionMapping:
    """The mapping for the constraint of that name.

    Raises:
        ConfigError: there is none of that name.
        BudgetError: even the least widths exceed the budget.
    """
    if name not in _MAPPINGS:
        raise ConfigError(f"constraint {name!r} is unknown; choose from {', '.join(_MAPPINGS)}")
    return _MAPPINGS[name](units, cost, budget)
