"""Operations that mix channels: norms over them, products of activations, attention.

A norm over channels works on those that are kept, so its channels stay free; the masked twin
computes it likewise (``amc.pruning.slicing.slice``). A product of two activations has no weight in
which a channel could be cut out of one factor alone, so all channels that meet in one matrix of the
batch go together: in attention that is one head.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from amc.tracing.ids import compress, core
from amc.tracing.producers import apply_matrix, tie_groups
from amc.tracing.relations import Broadcast, reduced
from amc.tracing.rules import Call, Tracer, count, opaque, reason_of, ride_along, rule
from amc.tracing.weights import weight_of


@rule("layer_norm", "rms_norm")
def layer_norm(tracer: Tracer, call: Call) -> Any:
    """(..., *shape) normalised over ``shape``; scale and shift follow the channels."""
    shape, affine = call.args[1], [x for x in call.args[2:4] if isinstance(x, Tensor)]
    ids = tracer.of(call.args[0])
    dims = [d for d in range(-len(shape), 0) if ids.stride(d) != 0 and ids.shape[d] > 1]
    if not dims:
        return ids
    if len(dims) > 1 or any(tracer.labels_of(x) is None for x in affine):
        return opaque(tracer, call)
    if any(core(ids).shape[d] > 1 for d in range(-ids.dim(), -len(shape))):
        return _norm_within(tracer, call, affine, dims[0])
    channels = tracer.ids.along(ids, dims[0])
    for tensor in affine:
        ride_along(tracer, tensor, len(shape) + dims[0], channels)
    tracer.ids.use(call.place, ids.dim() + dims[0], "statistic", channels)
    return channels.view(-1, *[1] * (-dims[0] - 1)).expand(ids.shape)


def _norm_within(tracer: Tracer, call: Call, affine: list[Tensor], dim: int) -> Tensor:
    """A norm over a part of the channels, such as each head's: what is within may be one."""
    ids = tracer.of(call.args[0])
    reduced(tracer.ids, ids, [ids.dim() + dim], call.place, reason_of(tracer, call))
    for tensor in affine:
        for label in tracer.labels_of(tensor) or ():
            tracer.ids.later(Broadcast(core(label.ids), core(ids)))
    return ids


@rule("group_norm")
def group_norm(tracer: Tracer, call: Call) -> Any:
    """(N, C, ...) normalised over equal groups of channels, which have to stay equal."""
    groups, affine = call.args[1], [x for x in call.args[2:4] if isinstance(x, Tensor)]
    ids = tracer.of(call.args[0])
    channels = tracer.ids.along(ids, 1)
    if not affine or any(tracer.labels_of(x) is None for x in affine):
        return opaque(tracer, call)
    if groups < len(channels):  # otherwise each channel is normalised by itself
        tie_groups(tracer, channels, groups)
        tracer.ids.use(call.place, 1, "statistic", channels)
    for tensor in affine:
        ride_along(tracer, tensor, 0, channels)
    return channels.view(-1, *[1] * (ids.dim() - 2)).expand(ids.shape)


@rule("matmul", "mm", "bmm")
def matmul(tracer: Tracer, call: Call) -> Any:
    """(..., M, K) times (..., K, N), by a stored matrix or by another activation."""
    left, right = call.args[:2]
    if left.dim() > 1 and (right.dim() == 2 or right.shape[:-2].numel() == 1):
        found = weight_of(tracer, right, right.dim() - 1, right.dim() - 2)
        if found is not None:
            return apply_matrix(tracer, call, left, found, None)
    return _product(tracer, call, left, right)


@rule("addmm")
def addmm(tracer: Tracer, call: Call) -> Any:
    """A bias plus a product; only with a stored matrix, as in GPT-2's layers."""
    bias, left, right = call.args[:3]
    found = weight_of(tracer, right, 1, 0)
    if found is None or tracer.labels_of(bias) is None or call.kwargs:
        return opaque(tracer, call)
    return apply_matrix(tracer, call, left, found, bias)


@rule("baddbmm")
def baddbmm(tracer: Tracer, call: Call) -> Any:
    """A product of activations plus what is added to it."""
    produced = _product(tracer, call, *call.args[1:3])
    added = tracer.of(call.args[0])
    tracer.ids.unite(core(produced), core(added))
    return torch.where(produced != 0, produced, added.expand(produced.shape))


@rule("outer", "ger")
def outer(tracer: Tracer, call: Call) -> Tensor:
    """(n) times (m) to (n, m): every channel of one vector meets every one of the other."""
    left, right = core(tracer.of(call.args[0]))[:, None], core(tracer.of(call.args[1]))
    tracer.ids.unite(left, right)
    met = torch.where(left != 0, left, right).expand(call.out.shape)
    count(tracer, reason_of(tracer, call), call.out.numel(), met)
    return met


def _product(tracer: Tracer, call: Call, left: Tensor, right: Tensor) -> Any:
    a, b = tracer.of(left), tracer.of(right)
    if a.dim() < 2 or b.dim() < 2:
        return opaque(tracer, call)
    shape, terms = call.out.shape, left.shape[-1]
    if not core(a).any() or not core(b).any():
        # One of the two is no channel's, and mixes what it is contracted with.
        rows, columns = _contract(tracer, call, a), _contract(tracer, call, b.mT)
        passed = (rows[..., None] + columns[..., None, :]).expand(shape)
        count(tracer, reason_of(tracer, call), prod(shape) * terms, passed)
        return compress(passed)
    met = _tie_batch(tracer, call, [a, b], shape[:-2])[..., None, None].expand(shape)
    count(tracer, reason_of(tracer, call), prod(shape) * terms, met)
    return met


def _contract(tracer: Tracer, call: Call, ids: Tensor) -> Tensor:
    """(..., M, K) ids to (..., M): those along K become one."""
    small = core(ids)
    if small.shape[-1] == 1:
        return small[..., 0]
    reason = reason_of(tracer, call)
    rows = [tracer.ids.tie(row, reason) for row in small.reshape(-1, small.shape[-1])]
    return torch.stack(rows).reshape(small.shape[:-1])


def _tie_batch(tracer: Tracer, call: Call, operands: list[Tensor], batch: torch.Size) -> Tensor:
    """One id for each matrix of the batch, (*batch,): all channels that meet there, united."""
    reason = reason_of(tracer, call)
    cores = [core(x) for x in operands]
    cores = [x.reshape([1] * (len(batch) + 2 - x.dim()) + list(x.shape)) for x in cores]
    own = [max(x.shape[d] for x in cores) for d in range(len(batch))]
    rows = [x.expand(*own, *x.shape[-2:]).reshape(prod(own), -1) for x in cores]
    met = [tracer.ids.tie(torch.cat(row), reason) for row in zip(*rows, strict=True)]
    return torch.stack(met).reshape(own).expand(batch)


@rule("scaled_dot_product_attention")
def attention(tracer: Tracer, call: Call) -> Any:
    """softmax(q k^T / sqrt(d) + mask) v over (..., tokens, d): a head is one of the batch.

    Grouped keys (``enable_gqa``): each head of the keys and values serves several of the queries,
    and goes together with them.
    """
    query, key, value = call.args[:3]
    mask = call.args[3] if len(call.args) > 3 else call.kwargs.get("attn_mask")
    operands = [tracer.of(x) for x in (query, key, value)]
    if call.kwargs.get("enable_gqa"):
        heads = query.shape[-3]
        operands = [x.repeat_interleave(heads // x.shape[-3], -3) for x in operands]
    if isinstance(mask, Tensor) and mask.dim() > 2:
        operands.append(tracer.of(mask))
    batch = call.out.shape[:-2]
    met = _tie_batch(tracer, call, operands, batch)[..., None, None].expand(call.out.shape)
    macs = prod(call.out.shape[:-1]) * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    count(tracer, reason_of(tracer, call), macs, met)
    return met


@rule("view_as_complex")
def view_as_complex(tracer: Tracer, call: Call) -> Any:
    """(..., 2) real numbers to (...) complex ones: the two parts of a number go together."""
    real, imaginary = core(tracer.of(call.args[0])).expand(*[-1] * call.out.dim(), 2).unbind(-1)
    tracer.ids.unite(real, imaginary)
    return torch.where(real != 0, real, imaginary).expand(call.out.shape)


@rule("view_as_real")
def view_as_real(tracer: Tracer, call: Call) -> Any:
    """(...) complex numbers to (..., 2) real ones."""
    return tracer.of(call.args[0])[..., None].expand(call.out.shape)
