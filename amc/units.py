"""Units: sets of channels that can be removed together, read off a trace.

A group is a set of united channels; groups with the same uses (the same dimensions of the same
tensors, equally often) form a unit. ResNet's ``layer1.0.conv1`` is one unit of 64 groups; so is the
residual stream behind it, with all its producers. A plan keeps, of each unit, some number of
groups: its kept *width*.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import overload

import numpy as np

from amc.errors import UnitError
from amc.ids import Role
from amc.rules import Layer


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
    """Kind of its first producer; ``stream`` where several producers are tied, ``heads`` where
    the channels multiply each other in attention."""
    width: int
    granularity: int
    layers: tuple[Layer, ...]
    """Its producers, in forward order."""
    slots: tuple[Slot, ...]
    order: np.ndarray = field(repr=False)
    """(width,) groups by falling importance."""
    min_width: int = 1
    multiple: int = 1
    droppable: bool = False
    """Whether all of it may go: what reads it is then a constant beside a shortcut."""

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Allowed kept widths, ascending: multiples from the minimum on, and the full width.

        The first is 0 where the unit is droppable.
        """
        least = math.ceil(self.min_width / self.multiple) * self.multiple
        nothing = (0,) if self.droppable else ()
        return (*nothing, *range(least, self.width, self.multiple), self.width)

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
    counted: dict[str, int] = field(default_factory=dict)
    """Sizes that are no tensor's: attributes of modules, and channels of products."""

    @cached_property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every stored tensor, and (size,) of what is :attr:`counted`."""
        counted = {name: (size,) for name, size in self.counted.items()}
        return {**self.parameters, **self.buffers, **counted}

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
            least = 0 if unit.droppable else 1
            if not (least <= width <= unit.width and width == int(width)):
                raise UnitError(
                    f"{unit.name}: width {width} is not an integer in {least}..{unit.width}"
                )
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
