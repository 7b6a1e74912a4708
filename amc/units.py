"""Units: sets of channels that can be removed together, read off a trace.

A group is a set of united channels; groups with the same uses (the same dimensions of the same
tensors, equally often) form a unit. ResNet's ``layer1.0.conv1`` is one unit of 64 groups; so is the
residual stream behind it, with all its producers. A plan keeps, of each unit, some number of
groups: its kept *width*.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import overload

import numpy as np

from amc.errors import UnitError
from amc.ids import Role, Use
from amc.rules import Layer
from amc.trace import Trace


@dataclass(frozen=True)
class Slot:
    """Where a unit's channels sit in one stored tensor."""

    tensor: str
    dim: int
    role: Role
    index: np.ndarray
    """(width, channels per group in this tensor) indices along ``dim``."""


@dataclass(frozen=True, eq=False)
class Unit:
    """Channels that are removed together, ``granularity`` of them in each of ``width`` groups."""

    name: str
    """Of its first producer."""
    kind: str
    """Kind of its first producer; ``stream`` where several producers are tied."""
    width: int
    granularity: int
    layers: tuple[Layer, ...]
    """Its producers, in forward order."""
    slots: tuple[Slot, ...]
    order: np.ndarray = field(repr=False)
    """(width,) groups by falling importance."""
    min_width: int = 1
    multiple: int = 1

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Allowed kept widths, ascending: multiples from the minimum on, and the full width."""
        least = math.ceil(self.min_width / self.multiple) * self.multiple
        return (*range(least, self.width, self.multiple), self.width)

    def kept(self, width: int) -> np.ndarray:
        """(width,) the most important groups, in their original order."""
        return np.sort(self.order[:width])


@dataclass(frozen=True)
class Frozen:
    """Channels that are left alone."""

    name: str
    channels: int
    reason: str


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

    @cached_property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every stored tensor."""
        return {**self.parameters, **self.buffers}

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
        return tuple(unit.width for unit in self)

    def check(self, widths: Sequence[int]) -> tuple[int, ...]:
        """``widths`` as integers; raises :class:`UnitError` where a unit does not allow one."""
        if len(widths) != len(self):
            raise UnitError(f"{len(widths)} widths for a network of {len(self)} units")
        for unit, width in zip(self, widths, strict=True):
            if not (1 <= width <= unit.width and width == int(width)):
                raise UnitError(f"{unit.name}: width {width} is not an integer in 1..{unit.width}")
        return tuple(int(width) for width in widths)

    def ranked(self, scores: Sequence[np.ndarray]) -> Units:
        """The same units, their groups ordered by ``scores``: one (width,) array a unit."""
        items = tuple(
            replace(unit, order=np.argsort(-score, kind="stable"))
            for unit, score in zip(self, scores, strict=True)
        )
        return replace(self, items=items)

    def limited(
        self, min_keep: float = 0.0, round_to: int = 1, exclude: Sequence[str] = ()
    ) -> Units:
        """The same units with bounds on their kept widths.

        ``min_keep`` is the least kept fraction, ``round_to`` the multiple that kept widths observe,
        ``exclude`` holds names or shell patterns of units (or of layers in them) to leave alone.
        A unit that these leave no choice is frozen, with the reason. Raises :class:`UnitError` for
        a pattern that matches nothing.
        """
        items: list[Unit] = []
        frozen = list(self.frozen)
        for wanted in exclude:
            already = any(fnmatchcase(channels.name, wanted) for channels in self.frozen)
            if not already and not any(_matches(unit, wanted) for unit in self):
                known = ", ".join(unit.name for unit in self.items[:5])
                raise UnitError(f"no unit matches {wanted!r}; units are named like {known}")
        for unit in self:
            unit = replace(unit, min_width=max(1, _least(min_keep, unit.width)), multiple=round_to)
            pattern = next((p for p in exclude if _matches(unit, p)), None)
            if pattern is not None:
                frozen.append(_freeze(unit, f"excluded by {pattern!r}"))
            elif len(unit.widths) == 1:
                bounds = f"at least {unit.min_width} of {unit.width}, in steps of {unit.multiple}"
                frozen.append(_freeze(unit, f"its bounds leave no choice ({bounds})"))
            else:
                items.append(unit)
        return replace(self, items=tuple(items), frozen=tuple(frozen))

    def without(self, failed: dict[str, str]) -> Units:
        """The same units less those named in ``failed``, which are frozen with its reasons."""
        kept = tuple(unit for unit in self if unit.name not in failed)
        frozen = [_freeze(unit, failed[unit.name]) for unit in self if unit.name in failed]
        return replace(self, items=kept, frozen=(*self.frozen, *frozen))


def _least(min_keep: float, width: int) -> int:
    """Fewest groups that make up the fraction, deaf to rounding: .07 of 100 is 7."""
    return math.ceil(min_keep * width - 1e-9)


def _matches(unit: Unit, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (unit.name, *(x.name for x in unit.layers)))


def _freeze(unit: Unit, reason: str) -> Frozen:
    return Frozen(unit.name, unit.width * unit.granularity, reason)


Shapes = dict[str, tuple[int, ...]]


def group(trace: Trace, parameters: Shapes, buffers: Shapes) -> Units:
    """Form the units of a trace, given the shapes of the model's parameters and buffers."""
    rows: dict[int, dict[int, np.ndarray]] = defaultdict(dict)
    for number, use in enumerate(trace.uses):
        order = np.argsort(use.ids, kind="stable")
        present, starts = np.unique(use.ids[order], return_index=True)
        for channel, index in zip(present, np.split(order, starts[1:]), strict=True):
            if channel:
                rows[int(channel)][number] = index
    alike: dict[tuple[tuple[int, int], ...], list[int]] = defaultdict(list)
    for channel in sorted(rows):
        signature = tuple((number, len(index)) for number, index in rows[channel].items())
        alike[signature].append(channel)

    producers: dict[str, Layer] = {}
    first_use: dict[str, int] = {}
    for position, layer in enumerate(trace.layers):  # a shared layer stands at its first call
        producers.setdefault(layer.tensor, layer)
        first_use.setdefault(layer.tensor, position)
    units: list[Unit] = []
    frozen: list[Frozen] = []
    for signature, members in alike.items():
        uses = [trace.uses[number] for number, _ in signature]
        outputs = [use for use in uses if use.role == "out" and use.tensor in producers]
        outputs.sort(key=lambda use: first_use[use.tensor])
        if not outputs:
            continue  # the network's input, or a parameter that meets no channel
        layers = tuple(producers[use.tensor] for use in outputs)
        for reason, channels in _by_reason(members, uses, trace.frozen).items():
            slots = tuple(
                Slot(use.tensor, use.dim, use.role, np.stack([rows[c][number] for c in channels]))
                for use, (number, _) in zip(uses, signature, strict=True)
            )
            granularity = next(s.index.shape[1] for s in slots if s.tensor == outputs[0].tensor)
            if reason:
                frozen.append(Frozen(layers[0].name, len(channels) * granularity, reason))
                continue
            units.append(
                Unit(
                    name=layers[0].name,
                    kind=layers[0].kind if len(layers) == 1 else "stream",
                    width=len(channels),
                    granularity=granularity,
                    layers=layers,
                    slots=slots,
                    order=np.arange(len(channels)),
                )
            )
    units.sort(key=lambda unit: first_use[unit.layers[0].tensor])
    return Units(_distinct(units), tuple(frozen), trace.layers, parameters, buffers)


def _by_reason(
    channels: list[int], uses: list[Use], frozen: dict[int, str]
) -> dict[str, list[int]]:
    """Channels by the reason to leave them alone; the empty reason: none."""
    unread = "" if any(use.role == "in" for use in uses) else "no layer reads it"
    reasons: dict[str, list[int]] = defaultdict(list)
    for channel in channels:
        reasons[frozen.get(channel, unread)].append(channel)
    return reasons


def _distinct(units: list[Unit]) -> tuple[Unit, ...]:
    """Units of one producer are told apart by a number: ``conv``, ``conv#2``, ..."""
    seen: dict[str, int] = defaultdict(int)
    named = []
    for unit in units:
        seen[unit.name] += 1
        number = seen[unit.name]
        named.append(unit if number == 1 else replace(unit, name=f"{unit.name}#{number}"))
    return tuple(named)
