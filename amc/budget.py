"""Budgets, and the projection of wishes onto them.

A budget bounds costs from above. The projection turns what an agent wishes to keep of each unit
into widths that meet every bound: it scales all wishes together by the largest factor that fits,
then fills what rounding left. Every plan is therefore on the budget from below, never above it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from amc.cost import CostTable
from amc.errors import BudgetError, ConfigError
from amc.units import Unit, Units

QUANTITIES = {"macs": "macs", "flops": "macs", "params": "params"}
"""What a user may write, and the cost it means: in this literature FLOPs are MACs."""

_SUFFIX = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def parse_budget(text: str | Sequence[str]) -> dict[str, float | int]:
    """``"flops=0.5 params=1.2M"`` as ``{"macs": 0.5, "params": 1200000}``.

    A number up to 1 is a fraction of the dense network, an integer (with k, M or G) a count. Raises
    :class:`ConfigError` for an unknown quantity or a text that is not a number, and
    :class:`BudgetError` for a fraction outside (0, 1].
    """
    parts = (text if isinstance(text, str) else " ".join(text)).replace(",", " ").split()
    limits: dict[str, float | int] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key.lower() not in QUANTITIES:
            known = ", ".join(QUANTITIES)
            raise ConfigError(f"unknown budget {part!r}; write KEY=VALUE with KEY one of {known}")
        match = re.fullmatch(r"([0-9]*\.?[0-9]+)([kmg]?)", value.lower())
        if match is None:
            raise ConfigError(f"budget {part!r}: {value!r} is neither a fraction nor a count (20M)")
        number = float(match[1]) * _SUFFIX[match[2]]
        is_fraction = not match[2] and ("." in match[1] or number <= 1)
        if not number or (is_fraction and number > 1):
            raise BudgetError(f"budget {part!r}: a fraction must be in (0, 1], a count above 1")
        name = QUANTITIES[key.lower()]
        if name in limits:
            raise ConfigError(f"budget {part!r}: {name} is bounded twice; give one bound")
        limits[name] = number if is_fraction else round(number)
    if not limits:
        raise ConfigError("an empty budget; write for example flops=0.5")
    return limits


@dataclass(frozen=True)
class Budget:
    """Upper bounds on the costs of one network, in absolute terms."""

    limits: Mapping[str, float]
    cost: CostTable

    def fraction(self, quantity: str) -> float:
        """The bound as a fraction of the dense network; 1 where ``quantity`` is not bounded."""
        dense = self.cost.dense(quantity)
        return min(1.0, self.limits.get(quantity, dense) / dense)

    def met(self, widths: Sequence[int] | np.ndarray) -> bool:
        """Whether these kept widths cost no more than every bound."""
        return all(self.cost.function(name)(widths) <= most for name, most in self.limits.items())

    def __str__(self) -> str:
        bounds = self.limits.items()
        return ", ".join(
            f"{name} ≤ {most:,.0f} ({self.fraction(name):.1%})" for name, most in bounds
        )


def resolve(limits: Mapping[str, float | int], units: Units, cost: CostTable) -> Budget:
    """Absolute bounds out of fractions (floats up to 1) and counts (integers).

    Raises :class:`BudgetError` for a fraction outside (0, 1], and where even the least allowed
    widths cost more, and says how much.
    """
    least = [unit.widths[0] for unit in units]
    absolute = {}
    for name, limit in limits.items():
        if isinstance(limit, float) and not 0 < limit <= 1:
            raise BudgetError(
                f"{name}={limit:g}: a fraction must be in (0, 1]; write a count as an integer"
            )
        dense, reachable = cost.dense(name), cost.function(name)(least)
        absolute[name] = limit * dense if isinstance(limit, float) else float(limit)
        if reachable > absolute[name]:
            share = math.ceil(1000 * reachable / dense) / 1000  # rounded up, so that it can be met
            raise BudgetError(
                f"{name} ≤ {absolute[name]:,.0f} ({absolute[name] / dense:.1%} of dense) cannot be "
                f"met: the least achievable is {reachable:,} ({share:.1%}); raise the "
                "budget or lower the least kept fraction (min_keep)"
            )
    return Budget(absolute, cost)


def project(wishes: np.ndarray, units: Sequence[Unit], budget: Budget) -> tuple[int, ...]:
    """Kept widths on the budget, as close as can be to proportional to ``wishes``.

    ``wishes`` is (units,), the wished kept fractions in (0, 1]. With W the dense widths, the result
    is the allowed widths nearest to min(1, scale · wishes) · W, for the largest scale that meets
    every bound; then every unit in turn grows by a step as long as that still fits, those first
    that rounding treated worst.
    """
    dense = np.array([unit.width for unit in units], dtype=np.float64)
    grids = [np.array(unit.widths, dtype=np.float64) for unit in units]
    edges = [(grid[1:] + grid[:-1]) / 2 for grid in grids]

    def ranks_at(scale: float) -> np.ndarray:
        aims = scale * wishes * dense
        return np.array([np.searchsorted(e, aim) for e, aim in zip(edges, aims, strict=True)])

    def widths_of(ranks: np.ndarray) -> np.ndarray:
        return np.array([grid[rank] for grid, rank in zip(grids, ranks, strict=True)])

    low, high = 0.0, 2.0 / float(wishes.min())  # no wish is met at 0, every unit is whole at high
    if budget.met(dense):
        return tuple(unit.width for unit in units)
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        if budget.met(widths_of(ranks_at(middle))):
            low = middle
        else:
            high = middle
    ranks = ranks_at(low)
    missing = np.minimum(1.0, low * wishes) * dense - widths_of(ranks)
    grown = True
    while grown:
        grown = False
        for unit in np.argsort(-missing, kind="stable"):
            if ranks[unit] + 1 < len(grids[unit]):
                ranks[unit] += 1
                if budget.met(widths_of(ranks)):
                    grown = True
                else:
                    ranks[unit] -= 1
    return tuple(int(width) for width in widths_of(ranks))
