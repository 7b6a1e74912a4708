"""What is known of a network's units before any plan is evaluated, and the plan that follows.

A unit is as sensitive as the loss that its own pruning brings. There are two measures of it: what
the network loses when half of this unit alone is gone, and the square of the first-order change of
the training loss without its channels (Molchanov et al. 2019). Each misleads on some networks:
``benchmarks/replay.py`` has a row for the plan that follows from their geometric mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from amc.budget import Budget
    from amc.cost import CostTable
    from amc.tracing.units import Unit

_LEAST = 2.0**-8
_HALF = 0.5


@dataclass(frozen=True, eq=False)
class Sensitivity:
    """Multiples of their means over the units, each (units,) and at least a 256th."""

    alone: np.ndarray
    """What is lost when half of the unit is gone, and nothing else."""
    gradient: np.ndarray | None = None
    """First-order change of the training loss without the unit, where it is known."""

    @classmethod
    def measure(
        cls,
        units: Sequence[Unit],
        lost: Callable[[tuple[int, ...]], float],
        gradient: Sequence[float] | None = None,
        on_unit: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Ask ``lost`` once for each unit: widths of the network to what it loses.

        What is lost is taken to grow with 1 / keep - 1, as the scatter of a mean over the channels
        that are kept, so that units of few widths can be compared with others.
        """
        dense, alone = [unit.width for unit in units], np.ones(len(units))
        for i, unit in enumerate(units):
            half = min(unit.widths, key=lambda width: abs(width / unit.width - _HALF))
            if 0 < half < unit.width:
                widths = (*dense[:i], half, *dense[i + 1 :])
                alone[i] = max(lost(widths), 0.0) / (unit.width / half - 1)
            if on_unit is not None:
                on_unit(i + 1, len(units))
        known = None if gradient is None else relative(np.asarray(gradient, dtype=np.float64))
        return cls(relative(alone), known)

    @property
    def squared(self) -> np.ndarray:
        """(units,) what a unit costs in loss: the geometric mean of what is known."""
        if self.gradient is None:
            return self.alone
        mean: np.ndarray = np.sqrt(self.alone) * self.gradient
        return mean


def relative(values: np.ndarray) -> np.ndarray:
    """(units,) as multiples of their mean, at least a 256th; 1 where all are nothing."""
    mean = values.mean()
    scaled = values / mean if mean > 0 else np.ones_like(values)
    floored: np.ndarray = np.maximum(scaled, _LEAST)
    return floored


def savings(units: Sequence[Unit], cost: CostTable, quantity: str) -> np.ndarray:
    """(units,) what each unit can save by itself, as multiples of their mean (time may even rise:
    at least a 256th)."""
    dense, total = [unit.width for unit in units], cost.function(quantity)
    left = [total([*dense[:i], u.widths[0], *dense[i + 1 :]]) for i, u in enumerate(units)]
    return relative(total(dense) - np.array(left))


class Reference:
    """Wishes that lose least for what they save, as far as that is known.

    If every unit loses s (1 / keep - 1) and costs c · keep, the least loss on a budget is where
    keep is proportional to √(s / c) (a Lagrange multiplier, solved). Several costs that are bounded
    count alike. Where no sensitivity is known, all wishes are the same.
    """

    def __init__(
        self, units: Sequence[Unit], cost: CostTable, sensitivity: Sensitivity | None
    ) -> None:
        self._count = len(units)
        self._squared = None if sensitivity is None else sensitivity.squared
        self._savings: dict[str, np.ndarray] = {
            name: savings(units, cost, name) for name in cost.quantities
        }

    def wishes(self, budget: Budget) -> np.ndarray:
        """(units,) kept fractions, at most 1, not yet on ``budget``."""
        if self._squared is None or not budget.limits:
            return np.ones(self._count)
        costs = np.mean([self._savings[name] for name in budget.limits], axis=0)
        wishes = np.sqrt(self._squared / costs)
        highest: np.ndarray = wishes / wishes.max()
        return highest
