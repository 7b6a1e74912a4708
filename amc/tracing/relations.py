"""What ids ask of each other once all channels are united.

Whether a table, a constant or a statistic follows the channels that it meets, or serves them all
alike, depends on which of them are one: a rotary table is the same for every head, a head being one
channel, but has to shrink where the channels of a head are pruned one by one. So a trace notes such
relations, and :meth:`amc.tracing.ids.ChannelIds.settle` settles them.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
from torch import Tensor

from amc.tracing.ids import ChannelIds, Purpose, Relation, as_rows, core


@dataclass
class Split(Relation):
    """Code splits a dimension of channels into the factors ``rows.shape``, (leading, last).

    If the channels of each index of the leading factors are one, these are removed as wholes
    (attention heads); otherwise the leading factors are fixed by the code and the last one shrinks,
    so that the channels which share a last index go together (channel shuffle).
    """

    rows: Tensor
    rank: ClassVar[int] = 0

    def relate(self, ids: ChannelIds) -> bool:
        """Tie the rows, unless each is one channel."""
        roots = ids.roots(self.rows)
        if torch.equal(roots, roots[:, :1].expand_as(roots)):
            return False
        ids.unite(self.rows[:1], self.rows)
        return True


@dataclass
class Reduced(Relation):
    """A reduction over channels: over dimension ``dim`` of ``ids``, at ``place``.

    Heads that are one channel each are reduced within themselves, and the result is theirs.
    Otherwise the result is a statistic of the channels that are kept. If it has to stay as it is,
    as an output of the network, the channels have to stay, too.
    """

    ids: Tensor
    dim: int
    result: Tensor
    """(..., 1, ...) weak ids."""
    place: str
    rank: ClassVar[int] = 1

    def relate(self, ids: ChannelIds) -> bool:
        """Give the result to the heads that are one channel each."""
        if self._within(ids):
            ids.unite(self.result, self.ids.amax(self.dim, keepdim=True))
            return True
        reason = ids.reason(self.result)
        if reason is not None:
            ids.freeze(self.ids, reason)
        ids.along(self.ids, self.dim)
        return False

    def record(self, ids: ChannelIds) -> None:
        """The statistic is one of the channels along the dimension."""
        if ids.channels(self.ids) and not self._within(ids):
            ids.use(self.place, self.dim, "statistic", ids.along(self.ids, self.dim))

    def _within(self, ids: ChannelIds) -> bool:
        roots = ids.roots(self.ids)
        return torch.equal(roots, roots.narrow(self.dim, 0, 1).expand_as(roots))


@dataclass
class Equal(Relation):
    """Code takes the size of ``other``'s dimension for that of ``ids``'s."""

    ids: Tensor
    dim: int
    other: Tensor
    other_dim: int
    rank: ClassVar[int] = 2

    def relate(self, ids: ChannelIds) -> bool:
        """Unite the two where both shrink."""
        same = set(ids.roots(self.ids).flatten().tolist())
        if same == set(ids.roots(self.other).flatten().tolist()):
            return True  # the same channels, moved about: equally many in any case
        both = _shrinks(ids, self.ids, self.dim) and _shrinks(ids, self.other, self.other_dim)
        if both:
            ids.unite(ids.along(self.ids, self.dim), ids.along(self.other, self.other_dim))
        return both


@dataclass
class Sized(Relation):
    """The integer ``attribute`` is the size of dimension ``dim`` of ``ids``."""

    attribute: str
    ids: Tensor
    dim: int
    rank: ClassVar[int] = 2

    def relate(self, ids: ChannelIds) -> bool:
        """Tie what the attribute counts, wherever that shrinks."""
        tied = ids.has(self.attribute) and not ids.channels(self.ids)
        counts = tied or _shrinks(ids, self.ids, self.dim)
        if counts:
            ids.use(self.attribute, 0, "size", ids.along(self.ids, self.dim))
        return counts


@dataclass
class Padded(Relation):
    """Where these ids have channels, an attribute has to count them; otherwise the channels stay.

    They are indices that code puts beside others, in a number of its own.
    """

    ids: Tensor
    """(size,) weak."""
    beside: Tensor
    reason: str
    rank: ClassVar[int] = 3

    def relate(self, _: ChannelIds) -> bool:
        """Nothing: what counts them is known in the end."""
        return True

    def record(self, ids: ChannelIds) -> None:
        """Freeze what no attribute counts; what goes together with its neighbours is mixed."""
        known = ids.sized() | {*ids.roots(self.beside).flatten().tolist()}
        for one in self.ids[:, None]:
            if ids.channels(one) and ids.find(int(one)) not in known:
                ids.freeze(one, self.reason)


@dataclass
class Broadcast(Relation):
    """``weak`` ids meet ``others`` elementwise, and are broadcast over dimensions of theirs.

    They follow where each of them meets one channel. Where every one of them meets the same
    channels they serve these alike. Otherwise the channels that share one are tied, or, where
    ``reason`` is given, frozen.
    """

    weak: Tensor
    others: Tensor
    reason: str = ""
    rank: ClassVar[int] = 3

    def relate(self, ids: ChannelIds) -> bool:
        """Follow, serve or tie."""
        if len(core(self.weak).unique()) < 2:
            return True
        if not ids.channels(self.others):
            return False
        weak, met = torch.broadcast_tensors(core(self.weak), ids.roots(self.others))
        both = (weak != 0) & (met != 0)
        size = int(met.max()) + 1
        pairs = (weak[both] * size + met[both]).unique()
        each, all_met = (pairs // size).unique(), (pairs % size).unique()
        one_each = len(pairs) == len(each)
        if not one_each and len(pairs) == len(each) * len(all_met):
            return False  # each of them meets all: alike
        if self.reason and not one_each:
            ids.freeze(self.others, self.reason)
        else:
            ids.unite(self.weak, self.others)
        return True


@dataclass
class Along(Relation):
    """Indices ``labels`` of a stored tensor lie along a dimension that has ``channels``.

    Several, where dimensions of the stored tensor were merged: those follow of which each index
    stands for one channel. Where none does, the channels stay.
    """

    labels: list[Tensor]
    """(size,) each, weak."""
    channels: Tensor
    """(size,)"""
    reason: str
    rank: ClassVar[int] = 2

    def relate(self, ids: ChannelIds) -> bool:
        """Unite what follows."""
        if len(self.labels) == 1:
            ids.unite(self.labels[0], self.channels)
            return True
        follows = [label for label in self.labels if self._follows(ids, label)]
        for label in follows:
            ids.unite(label, self.channels)
        if not follows and ids.channels(self.channels):
            ids.freeze(self.channels, self.reason)
        return False

    def _follows(self, ids: ChannelIds, label: Tensor) -> bool:
        """Whether the channels behind each index of the stored tensor are one."""
        pairs = torch.stack(torch.broadcast_tensors(label, ids.roots(self.channels))).unique(dim=1)
        return len(pairs[0].unique()) == int(pairs.shape[1])


@dataclass
class Merged(Relation):
    """Dimensions of stored tensors that were merged into one, which a product counts."""

    labels: list[Tensor]
    """(size,) each, weak."""
    ids: Tensor
    """(size,) weak."""
    rank: ClassVar[int] = 3

    def relate(self, ids: ChannelIds) -> bool:
        """Count the one that has channels."""
        follows = [label for label in self.labels if ids.channels(label)]
        if len(follows) == 1:
            ids.unite(self.ids, follows[0])
        return len(follows) == 1


@dataclass
class Contracted(Relation):
    """Two factors are summed over a dimension in common, at ``place``: what lies along it in one
    shrinks with what lies along it in the other."""

    left: list[Tensor]
    """(size,) each, of the first factor."""
    right: list[Tensor]
    place: str
    dim: int
    """Of the first factor."""
    rank: ClassVar[int] = 2

    def relate(self, ids: ChannelIds) -> bool:
        """Unite what shrinks with its partners."""
        for one in (x for x in (*self.left, *self.right) if ids.channels(x)):
            others = self.right if any(one is x for x in self.left) else self.left
            Along(others, one, f"contracted at {self.place}").relate(ids)
        return False

    def record(self, ids: ChannelIds) -> None:
        """The sum is one over the channels that are kept."""
        for one in (x for x in (*self.left, *self.right) if ids.channels(x)):
            ids.use(self.place, self.dim, "statistic", one)


@dataclass
class Stored(Relation):
    """The indices of dimension ``dim`` of a stored tensor: recorded where channels are behind."""

    tensor: str
    dim: int
    labels: Tensor
    """(size,) weak."""
    purpose: Purpose = "affine"
    rank: ClassVar[int] = 2

    def relate(self, ids: ChannelIds) -> bool:
        """Tie what other uses of the tensor say."""
        met = ids.channels(self.labels)
        if met:
            ids.use(self.tensor, self.dim, self.purpose, self.labels)
        return met


def reduced(ids: ChannelIds, over: Tensor, dims: list[int], place: str, reason: str) -> Tensor:
    """Ids of a reduction of ``over`` along ``dims``, which stay with size 1."""
    small = core(over)
    varying = [dim for dim in dims if small.shape[dim] > 1]
    if not varying:
        return small
    if len(varying) > 1:  # such a statistic has no one dimension along which channels could go
        size = prod(small.shape[dim] for dim in varying)
        rows = small.movedim(varying, [*range(len(varying))]).reshape(size, -1)
        tied = [ids.tie(row, reason) for row in rows.T]
        return torch.stack(tied).reshape(small.amax(varying, keepdim=True).shape)
    highest = small.amax(varying[0], keepdim=True)
    if torch.equal(small, highest.expand_as(small)):
        return highest
    result = ids.fresh(highest.numel(), weak=True).view(highest.shape)
    result = torch.where(highest != 0, result, 0)
    ids.later(Reduced(small, varying[0], result, place))
    return result


def _shrinks(ids: ChannelIds, of: Tensor, dim: int) -> bool:
    """Whether removing channels changes the size of ``dim``.

    It does not where every index of ``dim`` holds the same channels: a removed head takes nothing
    from the size of the others.
    """
    if core(of).shape[dim] == 1 or not ids.channels(of):
        return False
    rows = as_rows(ids.roots(of), dim)
    channels = [set(row) for row in rows.tolist()]
    return any(row != channels[0] for row in channels)


def split(ids: ChannelIds, factors: Tensor) -> None:
    """Note that code splits a dimension of channels into the factors ``factors.shape``."""
    if len(factors.unique()) > 1:
        ids.later(Split(factors.flatten(0, -2) if prod(factors.shape[:-1]) else factors))
