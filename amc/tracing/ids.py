"""Channel ids: which channels of a network are one and the same, and where each one is stored.

While a network is traced, every element of every activation is labelled with a channel id, an
integer that names one output channel of one producer (0: no channel, a constant). Ids that meet,
in a residual addition or a gate, are united; an id that reaches something we cannot follow is
frozen, with the reason. An *id tensor* has its activation's shape; along dimensions where the id
does not change its stride is 0, so that the ids of a whole feature map cost one integer a channel.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Purpose = Literal["out", "in", "affine", "size", "count"]
"""How something uses a channel. A tensor produces it, consumes it, or rides along with it (a norm's
scale, a depthwise kernel); an integer attribute of a module is a size that counts it; a product of
activations counts it in its cost."""

_MAX_TRACKED_ELEMENTS = 1 << 21
"""Largest parameter that is followed element by element."""


@dataclass(frozen=True)
class Use:
    """One dimension of one stored tensor, and the channel id behind each of its indices."""

    tensor: str
    """Its name; for a size the attribute's path (``blocks.0.attn.num_heads``)."""
    dim: int
    purpose: Purpose
    ids: np.ndarray
    """(size of the dimension,) channel ids; 0 where no channel stands behind the index."""


@dataclass(frozen=True)
class Settled:
    """What a finished trace knows, in terms of united ids."""

    uses: tuple[Use, ...]
    frozen: dict[int, str]
    """Why a channel has to stay."""
    ties: dict[int, str]
    """What mixes the channels that were united into one."""


def core(ids: Tensor) -> Tensor:
    """``ids`` with size 1 along every dimension where it is known to be constant."""
    for dim in range(ids.dim()):
        if ids.shape[dim] > 1 and ids.stride(dim) == 0:
            ids = ids.narrow(dim, 0, 1)
    return ids


def compress(ids: Tensor) -> Tensor:
    """The same id tensor with stride 0 along every dimension where the ids do not change."""
    shape, small = ids.shape, core(ids)
    for dim in sorted(range(small.dim()), key=lambda d: -small.shape[d]):
        first = small.narrow(dim, 0, 1) if small.shape[dim] > 1 else None
        if first is not None and torch.equal(small, first.expand_as(small)):
            small = first
    return small.contiguous().expand(shape)


class ChannelIds:
    """Ids given out so far, which of them are united, frozen, and used where."""

    def __init__(self) -> None:
        self._parent: list[int] = [0]
        self._frozen: dict[int, str] = {}
        self._uses: dict[tuple[str, int], Use] = {}
        self._tied: dict[tuple[str, int], Use] = {}
        self._elements: dict[str, Tensor] = {}
        self._ties: list[tuple[int, str]] = []
        self._reduced: list[tuple[int, Tensor, str]] = []
        self._splits: list[Tensor] = []
        self._sized: list[tuple[str, Tensor, int]] = []
        self._equal: list[tuple[Tensor, int, Tensor, int]] = []

    def fresh(self, count: int) -> Tensor:
        """``count`` new ids, (count,) int64."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def opaque(self, reason: str) -> Tensor:
        """One new id, (), that is frozen from the start: something that cannot be followed."""
        ids = self.fresh(1)[0]
        self.freeze(ids, reason)
        return ids

    def freeze(self, ids: Tensor, reason: str) -> None:
        """Leave the channels behind ``ids`` alone, and remember why (the first reason stays)."""
        for channel in core(ids).unique().tolist():
            if channel:
                self._frozen.setdefault(channel, reason)

    def unite(self, left: Tensor, right: Tensor) -> None:
        """Tie ids pair by pair (any broadcastable shapes); pairs with a 0 tie nothing."""
        left, right = torch.broadcast_tensors(left, right)
        meet = (left != right) & (left != 0) & (right != 0)
        if not meet.any():
            return
        size = len(self._parent)
        pairs = (left[meet] * size + right[meet]).unique()  # one number each: far faster to sort
        for a, b in zip((pairs // size).tolist(), (pairs % size).tolist(), strict=True):
            root_a, root_b = self.find(a), self.find(b)
            if root_a != root_b:
                self._parent[max(root_a, root_b)] = min(root_a, root_b)

    def tie(self, ids: Tensor, reason: str) -> Tensor:
        """Unite all of ``ids`` into one, (), because something mixes them; remember why."""
        present = [channel for channel in core(ids).unique().tolist() if channel]
        if len(present) > 1:
            self.unite(torch.tensor(present[:1]), torch.tensor(present))
            self._ties.append((present[0], reason))
        return torch.tensor(present[0] if present else 0)

    def reduce(self, ids: Tensor, reason: str) -> Tensor:
        """A new id, (), for the result of a reduction over ``ids``, which ties them if it is used.

        (Attention averages its weights over the heads even where nobody asks for them.)
        """
        present = core(ids).unique()
        present = present[present != 0]
        if len(present) < 2:
            return present[0] if len(present) else ids.new_zeros(())
        result = self.fresh(1)[0]
        self._reduced.append((int(result), present, reason))
        return result

    def split(self, ids: Tensor) -> None:
        """Note that code splits a dimension of channels into the factors ``ids.shape``.

        What this asks of the channels is known when all unions are (:meth:`settle`). If the
        channels of each index of the leading factors are one, these are removed as wholes
        (attention heads); otherwise the leading factors are fixed by the code and the last one
        shrinks, so that the channels which share a last index go together (channel shuffle).
        """
        if len(ids.unique()) > 1:
            self._splits.append(ids.flatten(0, -2))

    def sized(self, attribute: str, ids: Tensor, dim: int) -> None:
        """Note that the integer ``attribute`` is the size of dimension ``dim`` of ``ids``."""
        if core(ids).shape[dim] > 1:  # otherwise no channels lie along it
            self._sized.append((attribute, ids, dim))

    def equal(self, ids: Tensor, dim: int, other: Tensor, other_dim: int) -> None:
        """Note that code takes the size of ``other``'s dimension for that of ``ids``'s."""
        if core(ids).shape[dim] > 1 and core(other).shape[other_dim] > 1:
            self._equal.append((ids, dim, other, other_dim))

    def find(self, channel: int) -> int:
        """The smallest id that ``channel`` is united with."""
        parent = self._parent
        while parent[channel] != channel:
            parent[channel] = parent[parent[channel]]
            channel = parent[channel]
        return channel

    def along(self, ids: Tensor, dim: int) -> Tensor:
        """(size of ``dim``,) ids behind each index; ids that share an index are united."""
        size = ids.shape[dim]
        rows = core(ids).movedim(dim, 0).flatten(1)
        chosen = rows.amax(1) if rows.shape[1] else rows.new_zeros(rows.shape[0])
        self.unite(chosen[:, None], rows)
        return chosen.expand(size)

    def use(self, tensor: str, dim: int, purpose: Purpose, ids: Tensor) -> Tensor:
        """Record that index i of ``tensor``'s dimension ``dim`` belongs to channel ``ids[i]``.

        A tensor that is used twice (a shared layer) ties the channels of both uses; an index that
        has a channel in one use and none in the other is frozen. Returns ``ids``, or the ids of
        the earlier use.
        """
        earlier = self._uses.get((tensor, dim))
        if earlier is None:
            self._uses[tensor, dim] = Use(tensor, dim, purpose, ids.numpy().copy())
            return ids
        if {purpose, earlier.purpose} == {
            "in",
            "out",
        }:  # tied weights: written by one layer, read by one
            self._tied.setdefault((tensor, dim), Use(tensor, dim, purpose, ids.numpy().copy()))
        before = torch.from_numpy(earlier.ids)
        self.unite(before, ids)
        self.freeze((before + ids)[(before == 0) != (ids == 0)], f"{tensor} is shared unevenly")
        return torch.where(before != 0, before, ids)

    def elements(self, name: str, parameter: Tensor) -> Tensor:
        """Ids for a parameter that is used as data: one for each of its elements."""
        if name not in self._elements:
            if parameter.numel() > _MAX_TRACKED_ELEMENTS:
                return self.opaque(f"{name} is used as data, and is too large to follow").expand(
                    parameter.shape
                )
            self._elements[name] = self.fresh(parameter.numel()).view(parameter.shape)
        return self._elements[name]

    def settle(self) -> Settled:
        """Everything in terms of united ids."""
        self._settle_reductions()
        for rows in self._splits:
            roots = self._roots(rows)
            if not torch.equal(roots, roots[:, :1].expand_as(roots)):
                self.unite(rows[:1], rows)
        for ids, dim, other, other_dim in self._equal:
            same = set(self._roots(core(ids)).flatten().tolist())
            if same == set(self._roots(core(other)).flatten().tolist()):
                continue  # the same channels, moved about: equally many in any case
            if self._shrinks(ids, dim) and self._shrinks(other, other_dim):
                self.unite(self.along(ids, dim), self.along(other, other_dim))
        for attribute, ids, dim in self._sized:
            if self._shrinks(ids, dim):
                self.use(attribute, 0, "size", self.along(ids, dim))
        for name, ids in self._elements.items():
            self._settle_elements(name, ids)
        final = np.array([self.find(i) for i in range(len(self._parent))])
        found = [*self._uses.values(), *self._tied.values()]
        uses = [Use(u.tensor, u.dim, u.purpose, final[u.ids]) for u in found]
        frozen: dict[int, str] = {}
        for channel, reason in self._frozen.items():
            frozen.setdefault(int(final[channel]), reason)
        ties: dict[int, str] = {}
        for channel, reason in self._ties:
            ties.setdefault(int(final[channel]), reason)
        return Settled(tuple(uses), frozen, ties)

    def _settle_reductions(self) -> None:
        """Tie what was reduced over, where the result has been used; later reductions first."""
        used = {*self._frozen, *(channel for use in self._uses.values() for channel in use.ids)}
        for channel, root in enumerate(self._parent):
            if channel != root:
                used |= {channel, root}
        for result, ids, reason in reversed(self._reduced):
            if result in used:
                self.tie(torch.cat([ids, torch.tensor([result])]), reason)
                used.update(ids.tolist())

    def _roots(self, ids: Tensor) -> Tensor:
        """``ids`` in terms of united ids."""
        present, inverse = ids.unique(return_inverse=True)
        return torch.tensor([self.find(i) for i in present.tolist()])[inverse]

    def _shrinks(self, ids: Tensor, dim: int) -> bool:
        """Whether removing channels changes the size of ``dim``.

        It does not where every index of ``dim`` holds the same channels: a removed head takes
        nothing from the size of the others.
        """
        rows = self._roots(core(ids).movedim(dim, 0).flatten(1))
        channels = [set(row) for row in rows.tolist()]
        return any(row != channels[0] for row in channels)

    def _settle_elements(self, name: str, ids: Tensor) -> None:
        """A parameter used as data follows its channels if they run along one dimension of it."""
        roots = self._roots(ids)
        small = core(compress(roots))
        if small.numel() != max(small.shape, default=1):
            self.freeze(roots, f"{name} is used element by element")
        elif small.numel() > 1:
            dim = int(np.argmax(small.shape))
            self.use(name, dim, "affine", small.flatten())
        elif prod(ids.shape) > 1:
            self.freeze(roots, f"{name} serves several channels at once")
