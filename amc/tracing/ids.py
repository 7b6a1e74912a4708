"""Channel ids: which channels of a network are one and the same, and where each one is stored.

While a network is traced, every element of every activation is labelled with a channel id, an
integer that names one output channel of one producer (0: no channel, a constant). Ids that meet,
in a residual addition or a gate, are united; an id that reaches something we cannot follow is
frozen, with the reason. An *id tensor* has its activation's shape; along dimensions where the id
does not change its stride is 0, so that the ids of a whole feature map cost one integer a channel.

A *weak* id names no channel of its own: an index of a stored table, of a constant, of a statistic.
It follows the channels that it meets, but never ties them to each other where it serves them alike.
What weak ids ask for is known only when all channels are united (:mod:`amc.tracing.relations`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from amc.tracing.causes import Causes

Purpose = Literal["out", "in", "affine", "size", "count", "statistic"]
"""How something uses a channel. A tensor produces it, consumes it, or rides along with it (a norm's
scale, a depthwise kernel); an integer attribute of a module is a size that counts it; a product of
activations counts it in its cost; a reduction over channels, such as a norm by hand, is computed
over those that are kept."""

MAX_TRACKED_ELEMENTS = 1 << 21
"""Largest stored tensor that is followed element by element."""

_MANY = 4096
"""Different elements of an id tensor from which on it is worth to look for fewer."""


@dataclass(frozen=True)
class Use:
    """One dimension of one stored tensor, and the channel id behind each of its indices."""

    tensor: str
    """Its name; for a size the attribute's path (``blocks.0.attn.num_heads``), for a product or a
    statistic the operation and where it stands."""
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


class Relation:
    """Something that ids have to do with each other, which depends on what they are united with."""

    rank: ClassVar[int]
    """Relations of a low rank are settled first."""

    def relate(self, ids: ChannelIds) -> bool:
        """Unite or freeze what it asks for, as far as it is known now; whether that is all."""
        raise NotImplementedError

    def record(self, ids: ChannelIds) -> None:
        """Note the uses that it stands for, if any, once all is united."""


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


def as_rows(ids: Tensor, dim: int) -> Tensor:
    """(size of ``dim``, all others)."""
    return ids.movedim(dim, 0).reshape(ids.shape[dim], -1)


class ChannelIds:
    """Ids given out so far, which of them are united, frozen, and used where."""

    def __init__(self) -> None:
        self._parent: list[int] = [0]
        self._own = torch.zeros(1, dtype=torch.bool)
        self._channel: list[bool] = [False]
        self._unions = 0
        self._frozen: dict[int, str] = {}
        self._uses: dict[tuple[str, int], Use] = {}
        self._tied: dict[tuple[str, int], Use] = {}
        self._ties: list[tuple[int, str]] = []
        self._relations: list[Relation] = []
        self.causes = Causes()

    def fresh(self, count: int, *, weak: bool = False) -> Tensor:
        """``count`` new ids, (count,) int64."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        if start + count > len(self._own):
            self._own = torch.cat([self._own, torch.zeros(start + count, dtype=torch.bool)])
        self._own[start : start + count] = not weak
        self._channel.extend([not weak] * count)
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
        self.causes.note(pairs // size, pairs % size)
        for a, b in zip((pairs // size).tolist(), (pairs % size).tolist(), strict=True):
            root_a, root_b = self.find(a), self.find(b)
            if root_a != root_b:
                low, high = min(root_a, root_b), max(root_a, root_b)
                self._parent[high] = low
                self._channel[low] |= self._channel[high]
                self._unions += 1

    def tie(self, ids: Tensor, reason: str) -> Tensor:
        """Unite all of ``ids`` into one, (), because something mixes them; remember why."""
        present = [channel for channel in core(ids).unique().tolist() if channel]
        if len(present) > 1:
            self.unite(torch.tensor(present[:1]), torch.tensor(present))
            self._ties.append((present[0], reason))
        return torch.tensor(present[0] if present else 0)

    def later(self, relation: Relation) -> None:
        """Settle ``relation`` when the trace is complete."""
        self._relations.append(relation)

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
        rows = as_rows(core(ids), dim)
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

    # -- what relations ask --------------------------------------------------------------------

    def weak(self, ids: Tensor) -> bool:
        """Whether no channel stands behind ``ids`` as yet."""
        return not bool(self._own[core(ids)].any()) and not self.channels(ids)

    def roots(self, ids: Tensor) -> Tensor:
        """The core of ``ids`` in terms of united ids."""
        present, inverse = core(ids).unique(return_inverse=True)
        return torch.tensor([self.find(i) for i in present.tolist()], dtype=torch.int64)[inverse]

    def shortened(self, ids: Tensor) -> Tensor:
        """``ids``, as what they are united with where they are many: mostly far fewer."""
        if core(ids).numel() <= _MANY:
            return ids
        return compress(self.roots(ids)).expand(ids.shape)

    def channels(self, ids: Tensor) -> bool:
        """Whether there is a channel behind any of ``ids``."""
        return any(self._channel[self.find(i)] for i in core(ids).unique().tolist())

    def reason(self, ids: Tensor) -> str | None:
        """Why one of ``ids`` is frozen, or what it is united with; None where none is."""
        wanted = {*self.roots(ids).flatten().tolist()} - {0}
        return next((why for i, why in self._frozen.items() if self.find(i) in wanted), None)

    def has(self, tensor: str) -> bool:
        """Whether channels count a size, or lie along the first dimension of a tensor."""
        return (tensor, 0) in self._uses

    def sized(self) -> set[int]:
        """The smallest ids of all channels that attributes count."""
        sizes = (use for use in self._uses.values() if use.purpose == "size")
        return {self.find(channel) for use in sizes for channel in use.ids.tolist()}

    def settle(self) -> Settled:
        """Everything in terms of united ids."""
        ordered = sorted(self._relations, key=attrgetter("rank"))
        ranks = [list(group) for _, group in groupby(ordered, attrgetter("rank"))]
        while any(self._relate(open_) for open_ in ranks):
            pass
        for relation in self._relations:
            relation.record(self)
        final = np.array([self.find(i) for i in range(len(self._parent))])
        found = [*self._uses.values(), *self._tied.values()]
        uses = [Use(u.tensor, u.dim, u.purpose, final[u.ids]) for u in found]
        frozen = _by_root(self._frozen.items(), final)
        return Settled(tuple(uses), frozen, self._settle_ties(frozen, final))

    def _settle_ties(self, frozen: dict[int, str], final: np.ndarray) -> dict[int, str]:
        """What mixes channels, and what made all that a layer produces one."""
        ties = _by_root(self._ties, final)
        for use in self._uses.values():
            roots = {*final[use.ids].tolist()}
            if use.purpose == "out" and len(roots) == 1 < len({*use.ids.tolist()}):
                (root,) = roots
                cause = None if root in ties or root in frozen else self.causes.of(use.ids.tolist())
                if cause is not None:
                    ties[root] = cause
        return ties

    def _relate(self, relations: list[Relation]) -> bool:
        """Whether relations of one rank have changed anything; those that are settled are removed
        from the list."""
        before = self._unions, len(self._uses), len(self._frozen)
        relations[:] = [relation for relation in relations if not relation.relate(self)]
        return (self._unions, len(self._uses), len(self._frozen)) != before


def _by_root(reasons: Iterable[tuple[int, str]], final: np.ndarray) -> dict[int, str]:
    found: dict[int, str] = {}
    for channel, reason in reasons:
        found.setdefault(int(final[channel]), reason)
    return found
