"""Stored tensors, followed through what a forward computes from them before a layer uses it.

``conv2d(x, standardise(self.weight) * self.gain)``, weight norm, masks that are still attached,
low-rank terms, slices of a larger weight: such a weight has many sources, and each of its elements
belongs to an index of every dimension of every source. So a tensor that is made of stored ones
carries a *label* for each of these: an id tensor of its shape that names the index. Labels go
through the same rules as the ids of activations, one label at a time. Where a layer uses the
result, the labels that lie along its outputs and inputs are united with the channels there, and
slots point at the stored tensors. Constants whose size code states have labels, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from amc.tracing.ids import MAX_TRACKED_ELEMENTS, ChannelIds, core
from amc.tracing.relations import Broadcast, Contracted, Merged, Stored
from amc.tracing.rules import Call, Layer, Tracer, find_rule, opaque, reason_of

CONTRACTIONS = {
    f"aten.{name}" for name in ("mm", "bmm", "matmul", "mv", "dot", "vdot", "addmm", "addmv")
}
"""Products of two factors, which are their last two positional arguments."""


@dataclass(frozen=True)
class Label:
    """To which index of one dimension of a stored tensor each element of a tensor belongs."""

    stored: Stored
    ids: Tensor
    """Weak ids in the shape of the labelled tensor; 0 where it holds none of the stored tensor."""


class Labels:
    """Which tensors are made of stored ones (and constants) alone, and of which of their indices.

    Args:
        names: the name of each stored tensor, by its identity.
    """

    def __init__(self, ids: ChannelIds, names: dict[int, str]) -> None:
        self._ids = ids
        self._names = names
        self._stored: dict[tuple[str, int], Stored] = {}
        self._made: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._elements: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def of(self, tensor: Tensor) -> tuple[Label, ...] | None:
        """The labels of ``tensor``; None for what is not made of stored tensors."""
        name = self._names.get(id(tensor))
        if name is None:
            made: tuple[Label, ...] | None = self._made.get(tensor)
            return made
        shape = tensor.shape
        found = [self._dimension(name, dim, size) for dim, size in enumerate(shape) if size > 1]
        return tuple(Label(x, _along(x.labels, x.dim, shape)) for x in found)

    def tensors(self) -> list[Tensor]:
        """Everything that was made of stored tensors and is still there."""
        return list(self._made)

    def _dimension(self, name: str, dim: int, size: int) -> Stored:
        if (name, dim) not in self._stored:
            self._stored[name, dim] = Stored(name, dim, self._ids.fresh(size, weak=True))
            self._ids.later(self._stored[name, dim])
        return self._stored[name, dim]

    def constant(self, tensor: Tensor, dim: int, place: str) -> Tensor:
        """(size,) weak ids of a constant's dimension, whose size something states."""
        axis = self._ids.fresh(tensor.shape[dim], weak=True)
        label = Label(Stored(place, dim, axis), _along(axis, dim, tensor.shape))
        self._made[tensor] = (*(self._made.get(tensor) or ()), label)
        return axis

    def elements(self, tensor: Tensor, name: str) -> Tensor:
        """One id tensor for data made of stored tensors, such as a learned token."""
        labels = self.of(tensor) or ()
        if len(labels) <= 1:
            return labels[0].ids if labels else _none(tensor.shape)
        if tensor not in self._elements:
            if tensor.numel() > MAX_TRACKED_ELEMENTS:
                reason = f"{name} is used as data, and is too large to follow"
                self._elements[tensor] = self._ids.opaque(reason).expand(tensor.shape)
            else:
                ids = self._ids.fresh(tensor.numel(), weak=True).view(tensor.shape)
                reason = f"{name} is used element by element"
                for label in labels:
                    self._ids.later(Broadcast(label.ids, ids, reason))
                self._elements[tensor] = ids
        found: Tensor = self._elements[tensor]
        return found

    def follow(self, tracer: Tracer, call: Call) -> bool:
        """Label what an operation makes of stored tensors; whether it made it of these alone."""
        inputs = [x for x in tree_leaves((call.args, call.kwargs)) if isinstance(x, Tensor)]
        found = [(x, self.of(x)) for x in inputs]
        if all(labels is None for _, labels in found):
            return False
        if any(labels is None and core(tracer.of(x)).any() for x, labels in found):
            return False  # a channel of an activation meets them
        if str(call.operation.overloadpacket) in CONTRACTIONS:
            results = {id(call.out): (call.out, self._contract(tracer, call))}
        else:
            results = self._moved(tracer, call, {id(x): labels or () for x, labels in found})
        for tensor, labels in results.values():
            if id(tensor) not in self._names:
                self._made[tensor] = tuple(x for x in labels if x.ids.any())
        return True

    def _moved(
        self, tracer: Tracer, call: Call, inputs: dict[int, Sequence[Label]]
    ) -> dict[int, tuple[Tensor, list[Label]]]:
        """The results of the operation's rule for each label, as if there were no other."""
        made: dict[int, tuple[Tensor, list[Label]]] = {
            id(x): (x, []) for x in tree_leaves(call.out) if isinstance(x, Tensor)
        }
        sources = {id(x.stored): x.stored for labels in inputs.values() for x in labels}
        rule = find_rule(call.operation) or opaque
        for stored in sources.values():
            shown = {
                key: x.ids for key, labels in inputs.items() for x in labels if x.stored is stored
            }
            # The rules see one label at a time: unlike channels, labels never meet each other.
            view = _OneLabel(tracer, shown)
            try:
                ids = rule(view, call)
            except Exception:  # a form of the operation that its rule did not foresee
                ids = opaque(view, call)
            for tensor, label in zip(tree_flatten(call.out)[0], tree_flatten(ids)[0], strict=True):
                if isinstance(tensor, Tensor):
                    made[id(tensor)][1].append(Label(stored, label))
        return made

    def _contract(self, tracer: Tracer, call: Call) -> list[Label]:
        """Labels of a product: those of the rows and columns; what is summed over is matched."""
        left, right = call.args[-2:]
        inner = 0 if right.dim() == 1 else right.dim() - 2
        shape, vector = call.out.shape, right.dim() == 1
        kept: list[Label] = []
        summed: tuple[list[Tensor], list[Tensor]] = ([], [])
        for side, (factor, dim) in enumerate(((left, left.dim() - 1), (right, inner))):
            for label in self.of(factor) or ():
                if core(label.ids).shape[dim] > 1:
                    summed[side].append(self._ids.along(label.ids, dim))
                    continue
                ids = core(label.ids).select(dim, 0)
                if side == 0 and not vector and left.dim() > 1:
                    ids = ids.unsqueeze(-1)
                elif side == 1 and left.dim() > 1 and not vector:
                    ids = ids.unsqueeze(-2) if ids.dim() else ids
                kept.append(Label(label.stored, ids.expand(shape)))
        if summed[0] or summed[1]:
            self._ids.later(Contracted(*summed, call.place, call.args[-2].dim() - 1))
        self._count(tracer, call)
        for label in (self.of(call.args[0]) or ()) if len(call.args) > 2 else ():
            kept.append(Label(label.stored, core(label.ids).expand(shape)))
        return kept

    def _count(self, tracer: Tracer, call: Call) -> None:
        """MACs of a product of matrices: of the sizes of both factors, and those of the batch."""
        left, right = call.args[-2:]
        if right.dim() < 2 or left.dim() < 2:  # as PyTorch's counter, which leaves out vectors
            return
        name = f"{reason_of(tracer, call)} ({len(tracer.layers)})"
        sizes = [(left, -2), (left, -1), (right, -1)]
        sizes += [
            (next((x for x in (left, right) if x.dim() >= -dim and x.shape[dim] > 1), left), dim)
            for dim in range(-call.out.dim(), -2)
        ]
        for number, (factor, dim) in enumerate(sizes):
            self._ids.use(name, number, "count", self._counted(factor, dim))
        macs = call.out.numel() * left.shape[-1]
        dims = tuple(range(len(sizes)))
        tracer.layers.append(Layer(name, "fixed", macs, 1, tensor=name, dims=dims))

    def _counted(self, factor: Tensor, dim: int) -> Tensor:
        """(size,) ids along a dimension; of several merged ones those of the one that shrinks."""
        size = factor.shape[dim]
        along = [x.ids for x in self.of(factor) or () if core(x.ids).shape[dim] > 1]
        rows = [self._ids.along(ids, dim) for ids in along]
        if len(rows) < 2:
            return rows[0] if rows else _none(torch.Size([size]))
        merged = self._ids.fresh(size, weak=True)
        self._ids.later(Merged(rows, merged))
        return merged


class _OneLabel:
    """What a rule sees of the trace where it moves one label: ids of that label, no names."""

    def __init__(self, tracer: Tracer, shown: dict[int, Tensor]) -> None:
        self.ids = tracer.ids
        self.layers: list[Layer] = []
        self.where: Callable[[], str] = tracer.where
        self._shown = shown

    def of(self, tensor: Tensor) -> Tensor:
        return self._shown.get(id(tensor), _none(tensor.shape))

    def name_of(self, _: Tensor | None) -> str | None:
        return None

    def labels_of(self, _: Tensor) -> tuple[Label, ...] | None:
        return None

    def each_of(self, tensor: Tensor) -> list[Tensor]:
        return [self.of(tensor)]

    def places(self, _tensor: Tensor, _ids: Tensor, _reason: str) -> None:
        pass


def _along(axis: Tensor, dim: int, shape: torch.Size) -> Tensor:
    """(size,) ids as those of a tensor of ``shape`` that differ along ``dim`` alone."""
    return axis.view(-1, *[1] * (len(shape) - dim - 1)).expand(shape)


def _none(shape: torch.Size) -> Tensor:
    return torch.zeros((), dtype=torch.int64).expand(shape)
