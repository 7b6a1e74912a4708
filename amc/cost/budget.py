"""Budgets: upper bounds on the cost of a plan, one for a whole search or a range to draw from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from amc.cost.quantities import (
    Bound,
    Limit,
    Quantity,
    ends,
    parsed_amount,
    quantity,
    word,
    written_names,
)
from amc.cost.table import CostTable
from amc.errors import BudgetError, ConfigError
from amc.tracing.units import Units

SPREAD = 11
"""Budgets that stand for a whole range: every twentieth from .3 to .8."""


def parse_budget(text: str | Sequence[str]) -> dict[str, Bound]:
    """``"flops=0.3:0.8 params=1.2M"`` as ``{"macs": (0.3, 0.8), "params": 1200000}``.

    A number up to 1 is a fraction of the dense network, an integer (with k, M or G) a count, and a
    number with us, ms or s a time: ``"latency=12ms"`` is ``{"latency_us": 12000}``. Raises
    :class:`ConfigError` for an unknown quantity or a text that is not a number, and
    :class:`BudgetError` for a fraction outside (0, 1] and a range that does not rise.
    """
    parts = (text if isinstance(text, str) else " ".join(text)).replace(",", " ").split()
    limits: dict[str, Bound] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key.lower() not in written_names():
            known = ", ".join(written_names())
            raise ConfigError(f"unknown budget {part!r}; write KEY=VALUE with KEY one of {known}")
        quantity = written_names()[key.lower()]
        name = quantity.name
        if name in limits:
            raise ConfigError(f"budget {part!r}: {name} is bounded twice; give one bound")
        low, *high = (_number(part, end, quantity) for end in value.split(":"))
        if len(high) > 1:
            raise ConfigError(f"budget {part!r}: a range has two ends, LOW:HIGH")
        limits[name] = (low, high[0]) if high else low
        _checked(name, limits[name])
    if not limits:
        raise ConfigError("an empty budget; write for example flops=0.5")
    return limits


def _number(part: str, text: str, quantity: Quantity) -> Limit:
    example = quantity.measure.example
    try:
        number, suffix = parsed_amount(quantity, text)
    except ConfigError as error:
        raise ConfigError(f"budget {part!r}: {error}") from None
    is_fraction = not suffix and ("." in text or number <= 1)
    if not number or (is_fraction and number > 1):
        raise BudgetError(f"budget {part!r}: a fraction must be in (0, 1]; or give {example}")
    if quantity.measure.suffix and not suffix and not is_fraction:
        written = ", ".join(known for known in quantity.measure.suffixes if known)
        raise ConfigError(f"budget {part!r}: {text} of what? Write one of {written} behind it")
    return number if is_fraction else round(number)


def _checked(name: str, bound: Bound) -> tuple[Limit, Limit]:
    """The least and the greatest limit. Raises :class:`BudgetError` for one that is no limit."""
    low, high = ends(bound)
    for limit in (low, high):
        if isinstance(limit, float) and not 0 < limit <= 1:
            raise BudgetError(
                f"{name}={limit:g}: a fraction must be in (0, 1]; write a count as an integer"
            )
    if isinstance(bound, tuple) and (isinstance(low, float) != isinstance(high, float)):
        raise BudgetError(f"{name}={low}:{high}: give two fractions, or two counts")
    if isinstance(bound, tuple) and not low < high:
        raise BudgetError(f"{name}={low}:{high}: a range runs from the lower end to the higher one")
    return low, high


@dataclass(frozen=True)
class Budget:
    """Upper bounds on the costs of one network, in absolute terms.

    :meth:`draw`, :meth:`spread`, :meth:`at` and :attr:`fractions` are those of a
    :class:`BudgetRange`, too: a search under one budget is a search under a range of one.
    """

    limits: Mapping[str, float]
    cost: CostTable

    def fraction(self, quantity: str) -> float:
        """The bound as a fraction of the dense network; 1 where ``quantity`` is not bounded."""
        dense = self.cost.dense(quantity)
        return min(1.0, self.limits.get(quantity, dense) / dense)

    def slack(self, widths: np.ndarray) -> np.ndarray:
        """(...) unspent fraction of the scarcest bound at kept ``widths``, (..., units).

        Negative where a bound is exceeded, infinite where there is none.
        """
        left = [
            (most - self.cost.totals(name, widths)) / most for name, most in self.limits.items()
        ]
        least: np.ndarray = np.min([np.full(widths.shape[:-1], np.inf), *left], axis=0)
        return least

    @property
    def monotone(self) -> bool:
        """Whether narrower never costs more, in all that is bounded."""
        return all(quantity(name).grows_with_widths for name in self.limits)

    def met(self, widths: Sequence[int] | np.ndarray) -> bool:
        """Whether these kept widths, (units,), cost no more than every bound."""
        return bool(self.slack(np.asarray(widths)) >= 0)

    def draw(self, generator: np.random.Generator) -> Self:  # noqa: ARG002
        """Itself; nothing is drawn."""
        return self

    def spread(self, count: int = 1) -> list[Self]:  # noqa: ARG002
        """Itself, once."""
        return [self]

    def at(self, part: float) -> Self:  # noqa: ARG002
        """Itself."""
        return self

    @property
    def fractions(self) -> dict[str, Bound]:
        """Each bound as a fraction of the dense network."""
        return {name: self.fraction(name) for name in self.limits}

    def __str__(self) -> str:
        bounds = self.limits.items()
        return ", ".join(
            f"{word(name)} ≤ {quantity(name).measure.show_in_full(most)} "
            f"({self.fraction(name):.1%})"
            for name, most in bounds
        )


@dataclass(frozen=True)
class BudgetRange:
    """All budgets between two, which bound the same quantities."""

    low: Budget
    high: Budget

    def draw(self, generator: np.random.Generator) -> Budget:
        """One of them: each bound uniformly between its ends, independent of the others."""
        return self._at({name: generator.random() for name in self.low.limits})

    def spread(self, count: int = SPREAD) -> list[Budget]:
        """``count`` of them from the lowest to the highest, evenly; for 1 the middle."""
        parts = [0.5] if count == 1 else [i / (count - 1) for i in range(count)]
        return [self.at(part) for part in parts]

    def at(self, part: float) -> Budget:
        """The one that is this fraction of the way from the lowest to the highest."""
        return self._at(dict.fromkeys(self.low.limits, part))

    @property
    def fractions(self) -> dict[str, Bound]:
        """The ends of each bound as fractions of the dense network."""
        low, high = self.low, self.high
        return {name: (low.fraction(name), high.fraction(name)) for name in low.limits}

    def _at(self, parts: Mapping[str, float]) -> Budget:
        low, high = self.low.limits, self.high.limits
        limits = {name: low[name] + part * (high[name] - low[name]) for name, part in parts.items()}
        return Budget(limits, self.low.cost)


Budgets = Budget | BudgetRange
"""What a search is bounded by."""


def resolve(limits: Mapping[str, Bound], units: Units, cost: CostTable) -> Budgets:
    """Absolute bounds out of fractions (floats up to 1) and counts (integers), or pairs of either.

    Raises :class:`BudgetError` for a fraction outside (0, 1], for a range that does not rise, and
    where even the least allowed widths cost more (than the low end of a range), and says how much.
    """
    pairs = {name: _checked(name, bound) for name, bound in limits.items()}
    low, high = (
        Budget(
            {name: _absolute(name, pair[end], units, cost) for name, pair in pairs.items()}, cost
        )
        for end in (0, 1)
    )
    return low if low == high else BudgetRange(low, high)


def _absolute(name: str, limit: Limit, units: Units, cost: CostTable) -> float:
    least = [unit.widths[0] for unit in units]
    dense, reachable = cost.dense(name), cost.function(name)(least)
    absolute = limit * dense if isinstance(limit, float) else float(limit)
    if reachable > absolute:
        shown = quantity(name).measure.show_in_full
        share = math.ceil(1000 * reachable / dense) / 1000  # rounded up, so that it can be met
        raise BudgetError(
            f"{word(name)} ≤ {shown(absolute)} ({absolute / dense:.1%} of dense) cannot be met: "
            f"the least achievable is {shown(reachable)} ({share:.1%}); raise the budget or lower "
            "the least kept fraction (min_keep)"
        )
    return absolute
