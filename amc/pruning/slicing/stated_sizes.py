"""The numbers of channels that the layers of each module state, and how each follows the units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from amc.tracing.deformable import deformable_layers
from amc.tracing.units import Units


@dataclass(frozen=True)
class Size:
    """A number of channels that one tensor, or another attribute, states."""

    value: int
    form: tuple[int, ...]
    """Coefficients of the units' widths, and the constant, whose sum it is (``Units.forms``)."""
    roles: frozenset[str]
    """``in``, ``out``, ``groups``, or the name of the attribute that states it."""
    place: tuple[str, int]
    """The tensor or attribute, and the dimension."""
    ratio: Fraction = Fraction(1)
    """What that dimension is multiplied by: the groups of a convolution."""
    order: int | None = None
    """When the layer runs, among those whose MACs are counted."""

    @property
    def shrinks(self) -> bool:
        """Whether any unit has channels in it."""
        return any(self.form[:-1])

    def says(self, value: int, kind: str, name: str) -> bool:
        """Whether an attribute of this value, kind and name may count the same channels."""
        directed = {"groups": {"groups"}, "heads": set[str](), "in": {"in"}, "out": {"out"}}
        return value == self.value and bool(
            self.roles & (directed.get(kind, {"in", "out"}) | {name})
        )


class StatedSizes:
    """The sizes that the layers of each module state."""

    def __init__(self, model: nn.Module, units: Units) -> None:
        self._units, self._nothing = units, (0,) * len(units)
        self._order = {layer.tensor: n for n, layer in enumerate(units.layers)}
        self._children = {
            path: [f"{path}.{name}" if path else name for name, _ in module.named_children()]
            for path, module in model.named_modules()
        }
        self._own = {path: [*self._of(path, m)] for path, m in model.named_modules()}
        for attribute, (value, *_) in units.counted.items():
            owner, _, name = attribute.rpartition(".")
            if owner in self._own and name.isidentifier():  # no product's, no statistic's
                self._own[owner].append(self._size(attribute, 0, value, {name}))

    def add(self, attribute: str, size: Size) -> None:
        """A size that ``attribute`` states, for the modules above it."""
        self._own[attribute.rpartition(".")[0]].append(size)

    def attributes(self, path: str, value: int) -> list[Size]:
        """What the attributes of a module that were added, and have this value, count."""
        own = {"in", "out", "groups"}
        return [x for x in self._own[path] if x.value == value and x.roles.isdisjoint(own)]

    def children(self, path: str) -> list[list[str]]:
        """The modules below each module that a module has."""
        return [self._children[child] for child in self._children[path]]

    def near(self, path: str, value: int, kind: str, name: str) -> list[Size]:
        """The sizes of a module's own layers, as near to it as one of them is ``value``."""
        level, found = [path], []
        while level:
            for own in level:
                found += self._own.get(own, [])
            if any(size.says(value, kind, name) for size in found):
                return found
            level = [child for own in level for child in self._children.get(own, [])]
        return []

    def _of(self, path: str, module: nn.Module) -> Iterator[Size]:
        parameters = module.named_parameters(recurse=False)
        for name, tensor in (*parameters, *module.named_buffers(recurse=False)):
            full = f"{path}.{name}" if path else name
            if full not in self._units.sizes:
                continue
            if isinstance(module, (_ConvNd, *deformable_layers())):
                if name == "weight":
                    yield from self._of_convolution(full, module)
            elif isinstance(module, nn.Embedding):
                if name == "weight":
                    yield self._size(full, 1, tensor.shape[1], {"out"})
            elif isinstance(module, nn.Linear):
                if name == "weight":
                    yield self._size(full, 0, tensor.shape[0], {"out"})
                    yield self._size(full, 1, tensor.shape[1], {"in"})
            else:
                for dim, size in enumerate(tensor.shape):
                    yield self._size(full, dim, size, {"out", "in"})

    def _of_convolution(self, weight: str, conv: Any) -> Iterator[Size]:
        groups, (first, second) = conv.groups, conv.weight.shape[:2]
        if isinstance(conv, _ConvTransposeNd) and 1 < groups == first:  # depthwise
            yield self._size(weight, 0, first, {"in", "groups"})
            yield self._size(weight, 0, first, {"out"}, Fraction(second))
        elif isinstance(conv, _ConvTransposeNd):
            yield self._size(weight, 0, first, {"in"})
            yield self._size(weight, 1, second, {"out"}, Fraction(groups))
        elif groups > 1 and groups == conv.in_channels:  # depthwise
            yield self._size(weight, 0, first, {"out"})
            yield self._size(weight, 0, first, {"in"}, Fraction(groups, first))
            yield self._size(weight, 0, first, {"groups"}, Fraction(groups, first))
        else:
            yield self._size(weight, 0, first, {"out"})
            yield self._size(weight, 1, second, {"in"}, Fraction(groups))
            if groups > 1:
                yield Size(groups, (*self._nothing, groups), frozenset({"groups"}), (weight, 0))

    def _size(
        self, tensor: str, dim: int, size: int, roles: set[str], ratio: Fraction = Fraction(1)
    ) -> Size:
        form = self._units.forms.get((tensor, dim), (*self._nothing, size))
        return Size(
            int(size * ratio),
            form if ratio == 1 else tuple(int(ratio * x) for x in form),
            frozenset(roles),
            (tensor, dim),
            ratio,
            self._order.get(tensor),
        )
