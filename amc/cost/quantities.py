"""What a plan costs: each quantity's name, unit and formula, and how people write and read it.

A quantity is an entry of :data:`QUANTITIES`. Plans, episodes, budgets and reports hold costs by its
name, and cost tables ask its formula, so that a new one (file size, peak memory of activations) is
an entry and its formula. Nothing is imported here but the table, so that settings, help texts and
pages can ask it, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from amc.errors import ConfigError
from amc.utils.formatting import count, milliseconds
from amc.utils.registry import Registry

Limit = float | int
"""An upper bound: a fraction of the dense network (a float up to 1), or an amount (an integer: of
multiply-accumulates, parameters or microseconds)."""
Bound = Limit | tuple[Limit, Limit]
"""One for all episodes, or the ends of a range from which each episode draws its own."""

Totals = Callable[[Any], Any]
"""Kept widths (..., units) to amounts (...), both arrays."""


class Known(Protocol):
    """What a formula may ask: the table of one network (:class:`amc.cost.table.CostTable`)."""

    units: Any
    """:class:`amc.tracing.units.Units`."""
    latency: Totals | None
    """Predicted for a device."""

    def sum_of_products(self, products: Iterable[tuple[str, tuple[int, ...], int]]) -> Totals:
        """A sum over (tensor, its dimensions, coefficient): the coefficient times kept sizes."""


@dataclass(frozen=True)
class Measure:
    """In what an amount is counted: how people write and read it."""

    suffixes: Mapping[str, int]
    """What may stand behind a number, and what it is multiplied with; an amount is a whole number
    of the one with factor 1."""
    suffix: str
    """What we write behind it; empty where a bare number is clear."""
    example: str
    show: Callable[[float], str]
    """Three digits."""
    show_in_full: Callable[[float], str]
    whole: bool
    """Whether amounts are whole numbers."""


COUNT = Measure(
    suffixes={"": 1, "k": 10**3, "m": 10**6, "g": 10**9},
    suffix="",
    example="a count (20M)",
    show=count,
    show_in_full=lambda value: f"{value:,.0f}",
    whole=True,
)
TIME = Measure(
    suffixes={"": 1, "us": 1, "ms": 10**3, "s": 10**6},
    suffix="us",
    example="a time (12ms)",
    show=lambda us: milliseconds(us / 1e3),
    show_in_full=lambda us: milliseconds(us / 1e3),
    whole=False,
)


@dataclass(frozen=True)
class Quantity:
    """One thing that a network costs."""

    name: str
    """In files, settings and code, with its unit: ``macs``, ``latency_us``."""
    word: str
    """In sentences and tables: ``MACs``."""
    aliases: tuple[str, ...]
    """What a user may write for it in a budget, beside its name."""
    measure: Measure
    grows_with_widths: bool
    """Whether a narrower network never costs more: true of counts, not of time."""
    formula: Callable[[Known], Totals | None]
    """What the table knows of it, from the units that it has; None where nothing is known."""


QUANTITIES: Registry[Quantity] = Registry("quantity", "amc.quantities")
"""By name, in the order in which tables show them."""


def _add(quantity: Quantity) -> None:
    QUANTITIES.add(quantity.name, quantity.word, quantity)


_add(
    Quantity(
        name="macs",
        word="MACs",
        aliases=("flops",),  # in this literature FLOPs are multiply-accumulates
        measure=COUNT,
        grows_with_widths=True,
        formula=lambda table: table.sum_of_products(
            (layer.counted or layer.tensor, layer.dims, layer.macs_per_weight)
            for layer in table.units.layers
        ),
    )
)
_add(
    Quantity(
        name="params",
        word="parameters",  # as PyTorch's numel counts: a complex number is one
        aliases=(),
        measure=COUNT,
        grows_with_widths=True,
        formula=lambda table: table.sum_of_products(
            (name, tuple(range(len(shape))), 1) for name, shape in table.units.parameters.items()
        ),
    )
)
_add(
    Quantity(
        name="latency_us",
        word="latency",
        aliases=("latency",),
        measure=TIME,
        grows_with_widths=False,
        formula=lambda table: table.latency,
    )
)


def quantity(name: str) -> Quantity:
    """The quantity of that name. Raises :class:`ConfigError` where there is none."""
    return QUANTITIES.load(name)


def written_names() -> dict[str, Quantity]:
    """What a user may write for each quantity: ``flops``, ``macs``, ..."""
    known = [entry.load() for entry in QUANTITIES]
    return {name: one for one in known for name in (one.name, *one.aliases)}


def word(name: str) -> str:
    """The quantity of that name in words; the name itself where a file knows more than we do."""
    return quantity(name).word if name in QUANTITIES else name


def shown_limits(limits: Mapping[str, Bound]) -> str:
    """``{"macs": (0.3, 0.8), "params": 1200000}`` as ``MACs ≤ 30% to 80%, parameters ≤ 1.20 M``."""
    parts = []
    for name, bound in limits.items():
        low, high = ends(bound)
        shown = [_limit(name, limit) for limit in ((low, high) if low != high else (low,))]
        parts.append(f"{word(name)} ≤ {' to '.join(shown)}")
    return ", ".join(parts) or "no budget"


def written_bound(name: str, bound: Bound) -> str:
    """As a user writes it: ``0.5``, ``0.3:0.8``, ``1200000``, of latency ``12000us``."""
    suffix = quantity(name).measure.suffix
    both = bound if isinstance(bound, tuple) else (bound,)
    return ":".join(f"{one}{suffix}" if isinstance(one, int) else str(one) for one in both)


def limits_name(limits: Mapping[str, Bound]) -> str:
    """``{"macs": (0.3, 0.8), "params": 0.5}`` as ``macs0.3-0.8-params0.5``, for a folder."""
    return "-".join(
        f"{name.removesuffix('_us')}{written_bound(name, x).replace(':', '-')}"
        for name, x in limits.items()
    )


def ends(bound: Bound) -> tuple[Limit, Limit]:
    """The least and the greatest limit."""
    return bound if isinstance(bound, tuple) else (bound, bound)


def parsed_amount(quantity: Quantity, text: str) -> tuple[float, str]:
    """``"1.2M"`` as (1200000.0, "m"): the number and what stood behind it.

    Raises :class:`ConfigError` for what is no number, or has a suffix that the quantity lacks.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)([a-z]*)", text.lower())
    if match is None or match[2] not in quantity.measure.suffixes:
        raise ConfigError(f"{text!r} is neither a fraction nor {quantity.measure.example}")
    return float(match[1]) * quantity.measure.suffixes[match[2]], match[2]


def _limit(name: str, value: Limit) -> str:
    return f"{100 * value:.4g}%" if isinstance(value, float) else quantity(name).measure.show(value)
