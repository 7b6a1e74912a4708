"""Units: sets of channels that can be removed together, read off a trace.

A group is a set of united channels; groups with the same uses (the same dimensions of the same
tensors, equally often) form a unit. ResNet's ``layer1.0.conv1`` is one unit of 64 groups; so is the
residual stream behind it, with all its producers. A plan keeps, of each unit, some number of
groups: its kept *width*.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import cached_property
from typing import Any, overload

import numpy as np

from amc.bounds import Bounds
from amc.errors import UnitError
from amc.tracing.ids import Purpose
from amc.tracing.rules import Layer

GENTLE_KEEP = 0.5
"""Least kept fraction that is suggested for the ends of a network."""


@dataclass(frozen=True)
class Slot:
    """Where a unit's channels sit in one stored tensor."""

    tensor: str
    dim: int
    purpose: Purpose
    index: np.ndarray
    """(width, channels per group in this tensor) indices along ``dim``."""

    @property
    def owners(self) -> int:
        """Among how many the tensor's cost is shared out.

        An ordinary layer has a writer and a reader; what rides along has its channels alone, and a
        product the heads that meet in it.
        """
        return 1 if self.purpose in ("affine", "count", "statistic") else 2


@dataclass(frozen=True, eq=False)
class Unit:
    """Channels that are removed together, ``granularity`` of them in each of ``width`` groups."""

    name: str
    """Of its first producer."""
    kind: str
    """Kind of its first producer; ``stream`` where several producers are tied, ``heads`` where
    the channels multiply each other in attention."""
    width: int
    granularity: int
    layers: tuple[Layer, ...]
    """Its producers, in forward order."""
    slots: tuple[Slot, ...]
    order: np.ndarray = field(repr=False)
    """(width,) groups by falling importance."""
    scores: np.ndarray = field(repr=False)
    """(width,) importance of each group; zeros before :meth:`Units.ranked`."""
    min_width: int = 1
    """Fewest groups that may be kept."""
    multiple: int = 1
    """Step of the kept widths, in groups."""
    droppable: bool = False
    """Whether all of it may go: what reads it is then a constant beside a shortcut."""
    least_proven: int = 1
    """Fewest groups that may be kept because fewer failed their proof."""

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Allowed kept widths, ascending: multiples from the minimum on, and the full width.

        The first is 0 where the unit is droppable.
        """
        least = math.ceil(self.min_width / self.multiple) * self.multiple
        nothing = (0,) if self.droppable else ()
        return (*nothing, *range(least, self.width, self.multiple), self.width)

    def step(self, channels: int) -> int:
        """How many groups at a time keep a multiple of so many channels."""
        return channels // math.gcd(channels, self.granularity)

    def kept(self, width: int) -> np.ndarray:
        """(width,) the most important groups, in their original order."""
        return np.sort(self.order[:width])


@dataclass(frozen=True)
class Frozen:
    """Channels that are left alone."""

    name: str
    channels: int
    reason: str
    members: tuple[str, ...] = ()
    """Names of the layers that produce them."""


@dataclass(frozen=True)
class Counted:
    """What an integer of a module counts: the size of a tensor's dimension times ``ratio``."""

    tensor: str
    dim: int
    ratio: Fraction = Fraction(1)


@dataclass(frozen=True)
class Unclear:
    """An integer of a module that may state a number of channels; its layers do not tell which."""

    attribute: str
    """Its path, ``layer1.0.channels``."""
    value: int
    places: frozenset[tuple[str, int]]
    """The tensors and their dimensions that it may count."""


@dataclass(frozen=True, eq=False)
class Units(Sequence[Unit]):
    """The units of one network in forward order, and what is left alone."""

    items: tuple[Unit, ...]
    frozen: tuple[Frozen, ...]
    layers: tuple[Layer, ...]
    """Every layer whose MACs are counted."""
    parameters: dict[str, tuple[int, ...]]
    """Shape of every parameter."""
    buffers: dict[str, tuple[int, ...]]
    """Shape of every buffer."""
    counted: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of what is no tensor: attributes of modules, products, statistics over channels."""
    uncounted: tuple[str, ...] = ()
    """Operations, with their place in the network's code, whose arithmetic is in no count."""
    followed: Mapping[str, Counted] = field(default_factory=dict)
    """Attributes, by path, that the forward does not read and that count channels all the same."""
    unclear: tuple[Unclear, ...] = ()
    """Attributes that pruning may leave behind with sizes of the dense network."""

    @cached_property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every stored tensor, and of what is :attr:`counted`."""
        return {**self.parameters, **self.buffers, **self.counted}

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Unit]:
        return iter(self.items)

    @overload
    def __getitem__(self, index: int) -> Unit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Unit, ...]: ...
    def __getitem__(self, index: int | slice) -> Unit | tuple[Unit, ...]:
        return self.items[index]

    @property
    def dense_widths(self) -> tuple[int, ...]:
        """The width of every unit, nothing removed."""
        return dense_widths(self)

    @cached_property
    def forms(self) -> dict[tuple[str, int], tuple[int, ...]]:
        """(units + 1,) coefficients of the widths, and the constant, whose sum is the kept size.

        By tensor and dimension, where some unit has channels there.
        """
        dense = np.array(self.dense_widths, dtype=np.int64)
        slopes: dict[tuple[str, int], np.ndarray] = {}
        for u, unit in enumerate(self):
            for slot in unit.slots:
                row = slopes.setdefault((slot.tensor, slot.dim), np.zeros(len(self), np.int64))
                row[u] = slot.index.shape[1]
        return {
            (tensor, dim): (*row.tolist(), self.sizes[tensor][dim] - int(row @ dense))
            for (tensor, dim), row in slopes.items()
        }

    def check(self, widths: Sequence[int]) -> tuple[int, ...]:
        """``widths`` as integers; raises :class:`UnitError` where a unit does not allow one."""
        if len(widths) != len(self):
            raise UnitError(f"{len(widths)} widths for a network of {len(self)} units")
        for unit, width in zip(self, widths, strict=True):
            least = 0 if unit.droppable else 1
            if not (least <= width <= unit.width and width == int(width)):
                raise UnitError(
                    f"{unit.name}: width {width} is not an integer in {least}..{unit.width}"
                )
        return tuple(int(width) for width in widths)

    def ranked(self, scores: Sequence[np.ndarray]) -> Units:
        """The same units, their groups ordered by ``scores``: one (width,) array a unit."""
        items = tuple(
            replace(unit, order=np.argsort(-score, kind="stable"), scores=score)
            for unit, score in zip(self, scores, strict=True)
        )
        return replace(self, items=items)

    @property
    def stem(self) -> Unit | None:
        """The unit that the first layer produces; None where that is left alone."""
        first = next(((x.tensor, "out") for x in self.layers if x.out_channels), None)
        return next((unit for unit in self if first in _uses(unit)), None)

    @property
    def last(self) -> tuple[Unit, ...]:
        """The units that a layer reads which makes the network's output."""
        frozen = (x for x in self.frozen if x.reason == "network output")
        outputs = {name for channels in frozen for name in channels.members}
        readers = {(layer.tensor, "in") for layer in self.layers if layer.name in outputs}
        return tuple(unit for unit in self if readers & _uses(unit))

    def limited(
        self,
        min_keep: float = 0.0,
        round_to: int | Mapping[str, int] = 1,
        exclude: Sequence[str] = (),
        *,
        min_width: int = 1,
        gentle_ends: bool = False,
    ) -> Units:
        """The same units with bounds on their kept widths (:class:`amc.bounds.Bounds`).

        A unit that these leave no choice is frozen, with the reason. Raises :class:`UnitError` for
        a pattern that matches nothing, and :class:`ConfigError` for a bound out of its range.
        """
        bounds = Bounds.parse(
            {
                "min_keep": min_keep,
                "min_width": min_width,
                "round_to": round_to,
                "exclude": tuple(exclude),
                "gentle_ends": gentle_ends,
            },
            "bounds",
        )
        for wanted in exclude:
            already = any(
                fnmatchcase(name, wanted) for x in self.frozen for name in (x.name, *x.members)
            )
            if not already and not any(_matches(unit, wanted) for unit in self):
                known = ", ".join(unit.name for unit in self.items[:5])
                raise UnitError(f"no unit matches {wanted!r}; units are named like {known}")
        gentle = {self.stem, *self.last} if gentle_ends else set()
        items: list[Unit] = []
        frozen = list(self.frozen)
        for unit in self:
            pattern = next((p for p in exclude if _matches(unit, p)), None)
            unit, least, step = _bounded(unit, bounds, unit in gentle)
            if pattern is not None:
                frozen.append(freeze(unit, f"excluded by {pattern!r}"))
            elif len(unit.widths) == 1:
                frozen.append(freeze(unit, _no_choice(unit, least, step)))
            else:
                items.append(unit)
        return replace(self, items=tuple(items), frozen=tuple(frozen))

    def without(self, failed: dict[str, str]) -> Units:
        """The same units less those named in ``failed``, which are frozen with its reasons."""
        kept = tuple(unit for unit in self if unit.name not in failed)
        frozen = [freeze(unit, failed[unit.name]) for unit in self if unit.name in failed]
        return replace(self, items=kept, frozen=(*self.frozen, *frozen))


def least_width(keep: float, width: int) -> int:
    """Fewest groups that make up the fraction, whatever rounding did: .07 of 100 is 7."""
    return math.ceil(keep * width - 1e-9)


def _bounded(unit: Unit, bounds: Bounds, gentle: bool) -> tuple[Unit, str, str]:
    """The unit with its bounds, and the settings that its least width and its step come from."""
    floors = {
        f"min_keep={bounds.min_keep:g}": least_width(bounds.min_keep, unit.width),
        f"min_width={bounds.min_width}": bounds.min_width,
        "gentle_ends": least_width(GENTLE_KEEP, unit.width) if gentle else 0,
        "fewer fail their proof": unit.least_proven,
    }
    least = max(floors, key=lambda setting: floors[setting])
    kind = unit.kind if unit.kind in bounds.round_to else "all"
    channels = bounds.round_to.get(kind, 1)
    step = f"round_to={channels}" if kind == "all" else f"round_to {kind}={channels}"
    return replace(unit, min_width=floors[least], multiple=unit.step(channels)), least, step


def _no_choice(unit: Unit, least: str, step: str) -> str:
    """Why only the full width is allowed."""
    groups = f" groups of {unit.granularity} channels" if unit.granularity > 1 else ""
    floor = f"at least {unit.min_width} ({least})"
    grid = f"multiples of {unit.multiple}{groups} ({step})"
    if unit.min_width >= unit.width:
        blamed = floor
    elif unit.multiple >= unit.width:
        blamed = grid
    else:
        blamed = f"{floor}, {grid}"
    return f"no width below {unit.width} is allowed: {blamed}"


def _uses(unit: Unit) -> set[tuple[str, str]]:
    return {(slot.tensor, slot.purpose) for slot in unit.slots}


def _matches(unit: Unit, pattern: str) -> bool:
    names = (unit.name, f"kind:{unit.kind}", *(layer.name for layer in unit.layers))
    return any(fnmatchcase(name, pattern) for name in names)


def freeze(unit: Unit, reason: str) -> Frozen:
    """``unit``, left alone."""
    names = tuple(layer.name for layer in unit.layers)
    return Frozen(unit.name, unit.width * unit.granularity, reason, names)


def kept_fractions(widths: Sequence[int], units: Sequence[Unit]) -> tuple[float, ...]:
    """Kept fractions (units,) of kept widths (units,)."""
    return tuple(width / unit.width for width, unit in zip(widths, units, strict=True))


def dense_widths(units: Iterable[Any]) -> tuple[int, ...]:
    """The width of each unit where nothing is pruned; of units, or of what a plan says of them."""
    return tuple(unit.width for unit in units)
