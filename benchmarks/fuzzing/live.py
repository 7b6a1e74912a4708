"""The small network, worked out by hand: activations that know which channels they hold.

The reference of a block computes on what is left of its input, with what is left of its weights.
What is left of a stored tensor is read off the units' slots, and nothing else of ``amc`` is used:
that the channels of an activation are the ones that the next layer's weight expects is checked at
every step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

LAYERS: list[tuple[Any, Callable[[Kept, Any, Live], Live]]] = []
"""References of PyTorch's own layers (``layers.py``)."""


class MismatchError(Exception):
    """Parts of a plan contradict each other: a reader expects other channels than there are."""


class SkippedError(Exception):
    """The reference does not know what is right here."""


@dataclass(frozen=True)
class Live:
    """What is left of an activation."""

    values: Tensor
    index: Tensor
    """(kept,) places of its channels in the dense activation, ascending."""
    size: int
    """Channels of the dense activation."""
    dim: int = 1
    """Where the channels are."""

    def map(self, function: Callable[[Tensor], Tensor], dim: int | None = None) -> Live:
        """The same channels after ``function``, which may put them along another ``dim``."""
        return replace(self, values=function(self.values), dim=self.dim if dim is None else dim)

    def gather(self, places: Tensor) -> Live:
        """The activation whose dense channel j is the present dense channel ``places[j]``."""
        where = torch.full((self.size,), -1)
        where[self.index] = torch.arange(len(self.index))
        found = where[places]
        present = found >= 0
        values = self.values.index_select(self.dim, found[present])
        return Live(values, present.nonzero().flatten(), len(places), self.dim)

    def take(self, start: int, stop: int) -> Live:
        """The dense channels ``start`` to ``stop``."""
        return self.gather(torch.arange(start, stop))

    def chunk(self, pieces: int) -> list[Live]:
        """Equal pieces of the dense channels."""
        step = self.size // pieces
        return [self.take(n * step, (n + 1) * step) for n in range(pieces)]

    def whole(self) -> Tensor:
        """The values, where no channel may be missing."""
        if len(self.index) != self.size:
            raise MismatchError("a channel is missing where all of them are needed")
        return self.values

    def last(self) -> Live:
        """The channels at the end."""
        return self.map(lambda v: v.movedim(self.dim, -1), -1)


def merge(function: Callable[..., Tensor], *parts: Live) -> Live:
    """``function`` of activations whose channels meet one by one."""
    for part in parts[1:]:
        if not torch.equal(part.index, parts[0].index):
            raise MismatchError(f"{_few(parts[0].index)} meet {_few(part.index)}")
    return replace(parts[0], values=function(*(part.values for part in parts)))


def add(*parts: Live) -> Live:
    """Their sum, a constant or two included."""
    return merge(lambda *values: sum(values[1:], values[0]), *parts)


def cat(parts: Sequence[Live]) -> Live:
    """One after the other, along their channels."""
    offsets = [sum(part.size for part in parts[:n]) for n in range(len(parts))]
    index = torch.cat([part.index + start for part, start in zip(parts, offsets, strict=True)])
    values = torch.cat([part.values for part in parts], parts[0].dim)
    return Live(values, index, sum(part.size for part in parts), parts[0].dim)


class Kept:
    """What is left of each stored tensor of ``model`` when ``widths`` groups of each unit stay."""

    def __init__(self, model: nn.Module, units: Sequence[Any], widths: Sequence[int]) -> None:
        named = [*model.named_parameters(), *model.named_buffers()]
        self._names = {id(tensor): name for name, tensor in named}
        self._shapes = {name: tensor.shape for name, tensor in named}
        self._stays: dict[tuple[str, int], Tensor] = {}
        for unit, width in zip(units, widths, strict=True):
            for slot in unit.slots:
                if slot.tensor in self._shapes:
                    size = self._shapes[slot.tensor][slot.dim]
                    stays = self._stays.setdefault(
                        (slot.tensor, slot.dim), torch.ones(size, dtype=torch.bool)
                    )
                    stays[slot.index[unit.order[width:]].flatten().tolist()] = False

    def of(self, tensor: Tensor, dim: int) -> Tensor:
        """Kept indices of a stored tensor along ``dim``."""
        stays = self._stays.get((self._names[id(tensor)], dim % tensor.dim()))
        return torch.arange(tensor.shape[dim]) if stays is None else stays.nonzero().flatten()

    def cut(self, tensor: Tensor) -> Tensor:
        """What is left of a stored tensor."""
        small = tensor
        for dim in range(tensor.dim()):
            small = small.index_select(dim, self.of(tensor, dim))
        return small

    def count(self, tensor: Tensor) -> int:
        """How many elements are left of a stored tensor."""
        return self.cut(tensor).numel()

    def meet(self, x: Live, tensor: Tensor, dim: int) -> Tensor:
        """``tensor``, cut, whose dimension ``dim`` goes with the channels of ``x``."""
        self.agree(x.index, self.of(tensor, dim), self._names[id(tensor)])
        return self.cut(tensor)

    def agree(self, there: Tensor, expected: Tensor, name: str) -> None:
        """The channels that are there must be the ones that ``name`` expects."""
        if not torch.equal(there, expected):
            raise MismatchError(f"{name} expects {_few(expected)}, and there are {_few(there)}")

    def vector(self, x: Live, tensor: Tensor | None) -> Tensor:
        """A stored (channels,) tensor, cut and shaped to meet ``x``; 0 for None."""
        if tensor is None:
            return torch.zeros(())
        shape = [1] * x.values.dim()
        shape[x.dim] = -1
        return self.meet(x, tensor, 0).view(shape)

    def apply(self, layer: Any, x: Live) -> Live:
        """A layer of PyTorch's, or a block, or several of them one after the other."""
        if hasattr(layer, "reference"):
            found: Live = layer.reference(x, self)
            return found
        if isinstance(layer, nn.Sequential | nn.ModuleList):
            for part in layer:
                x = self.apply(part, x)
            return x
        for kinds, function in LAYERS:
            if isinstance(layer, kinds):
                return function(self, layer, x)
        if any(True for _ in layer.parameters()):
            raise SkippedError(f"no reference of {type(layer).__name__}")
        return x.map(layer)


def _few(index: Tensor) -> str:
    shown = index.tolist()
    return f"channels {shown[:12]}{'...' if len(shown) > 12 else ''}"
