"""What is known of a network's units before any plan is evaluated.

A unit is as sensitive as the loss that its own pruning brings. There are two measures of it: what
the network loses when half of this unit alone is gone, and the square of the first-order change of
the training loss without its channels (Molchanov et al. 2019). Each misleads on some networks, and
so does their geometric mean: :mod:`amc.envs.reference_plan` makes a plan of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from amc.tracing.units import dense_widths

if TYPE_CHECKING:
    from amc.cost.table import CostTable
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
        dense, alone = dense_widths(units), np.ones(len(units))
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
    def estimates(self) -> tuple[np.ndarray, ...]:
        """What each unit costs in loss, (units,): the geometric mean of the measures, and either of
        them, where there are two."""
        if self.gradient is None:
            return (self.alone,)
        squared = self.gradient**2
        return np.sqrt(self.alone * squared), self.alone, squared


def relative(values: np.ndarray) -> np.ndarray:
    """(units,) as multiples of their mean, at least a 256th; 1 where all are nothing."""
    mean = values.mean()
    scaled = values / mean if mean > 0 else np.ones_like(values)
    floored: np.ndarray = np.maximum(scaled, _LEAST)
    return floored


def savings(units: Sequence[Unit], cost: CostTable, quantity: str) -> np.ndarray:
    """(units,) what each unit can save by itself, as multiples of their mean (time may even rise:
    at least a 256th)."""
    dense, total = dense_widths(units), cost.function(quantity)
    left = [total([*dense[:i], u.widths[0], *dense[i + 1 :]]) for i, u in enumerate(units)]
    return relative(total(dense) - np.array(left))
