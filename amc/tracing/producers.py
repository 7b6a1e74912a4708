"""Operations with weights: what they consume, what they produce, and what they cost."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor

from amc.tracing.ids import core
from amc.tracing.rules import Call, Layer, Tracer, count, opaque, ride_along, rule
from amc.tracing.weights import Weight

WEIGHTED = {f"aten.{name}" for name in ("linear", "convolution", "_convolution", "embedding")}
"""Operations that use a weight, rather than compute one; even on a buffer of the network's."""


@rule("linear")
def linear(tracer: Tracer, call: Call) -> Any:
    """(..., K) times an (N, K) weight: consumes ids along the last dimension, makes new ones."""
    x, weight, bias = (*call.args, None)[:3]
    if tracer.weight_of(weight) is None:
        return opaque(tracer, call)
    return apply_matrix(tracer, call, x, weight, bias, out_dim=0)


def apply_matrix(
    tracer: Tracer, call: Call, x: Tensor, weight: Tensor, bias: Tensor | None, *, out_dim: int
) -> Tensor:
    """A stored (N, K) matrix, or (K, N) with ``out_dim`` 1, applied along the last dimension."""
    source = tracer.weight_of(weight)
    assert source is not None
    name = source.name
    features_out, features_in = weight.shape[out_dim], weight.shape[1 - out_dim]
    ids = core(tracer.of(x))
    if ids.shape[-1] == 1 and ids.numel() > 1:  # the channels lie elsewhere: it mixes positions
        count(tracer, _owner(name), prod(call.out.shape) * features_in, ids, "linear")
        return ids.expand(call.out.shape)
    tracer.ids.use(name, 1 - out_dim, "in", tracer.ids.along(tracer.of(x), -1))
    produced = _produce(tracer, name, out_dim, tracer.ids.fresh(features_out), bias)
    _follow_gains(tracer, source, produced)
    positions = prod(call.out.shape[:-1])
    tracer.layers.append(
        Layer(
            name=_owner(name),
            kind="linear",
            in_channels=features_in,
            out_channels=features_out,
            macs=positions * weight.numel(),
            tensor=name,
            dims=(0, 1),
            macs_per_weight=positions,
        )
    )
    return produced.expand(call.out.shape)


@rule("embedding")
def embedding(tracer: Tracer, call: Call) -> Tensor:
    """Rows of a (vocabulary, N) table: a producer without arithmetic."""
    table = call.args[0]
    name = tracer.name_of(table)
    if name is None:
        return opaque(tracer, call)  # type: ignore[no-any-return]
    produced = _produce(tracer, name, 1, tracer.ids.fresh(table.shape[1]), None)
    tracer.layers.append(
        Layer(
            name=_owner(name),
            kind="embedding",
            in_channels=table.shape[0],
            out_channels=table.shape[1],
            macs=0,
            tensor=name,
            dims=(0, 1),
            macs_per_weight=0,
        )
    )
    return produced.expand(call.out.shape)


@rule("convolution", "_convolution")
def convolution(tracer: Tracer, call: Call) -> Any:
    """Convolutions of any rank: plain, transposed, grouped and depthwise."""
    bias, stride, _padding, _dilation, transposed, _output_padding, groups = call.args[2:9]
    return convolve(tracer, call, bias, int(stride[0]), groups, transposed=transposed)


def convolve(
    tracer: Tracer,
    call: Call,
    bias: Tensor | None,
    stride: int,
    groups: int,
    *,
    transposed: bool = False,
) -> Any:
    """The first argument of ``call`` convolved by the second, (out, in / groups, *kernel)."""
    x, weight = call.args[:2]
    source = tracer.weight_of(weight)
    if source is None:
        return opaque(tracer, call)
    name = source.name
    consumed = tracer.ids.along(tracer.of(x), 1)
    in_channels, out_channels = x.shape[1], call.out.shape[1]
    depthwise = groups > 1 and groups == in_channels
    out_dim, in_dim = (1, 0) if transposed else (0, 1)
    if depthwise and not transposed:
        channels = consumed.repeat_interleave(out_channels // in_channels)
        tracer.ids.use(name, 0, "affine", channels)
        produced = _ride_bias(tracer, bias, channels)
    elif groups > 1 and transposed:
        return opaque(tracer, call)
    else:
        consumed = tie_groups(tracer, consumed, groups)
        tracer.ids.use(name, in_dim, "in", consumed[: in_channels // groups])
        fresh = tracer.ids.fresh(out_channels)
        tie_groups(tracer, fresh, groups)
        produced = _produce(tracer, name, out_dim, fresh, bias)
    _follow_gains(tracer, source, produced)
    positions = prod((x if transposed else call.out).shape[2:]) * call.out.shape[0]
    area = prod(weight.shape[2:])
    tracer.layers.append(
        Layer(
            name=_owner(name),
            kind="depthwise" if depthwise else "conv",
            in_channels=in_channels,
            out_channels=out_channels,
            kernel=round(area ** (1 / max(1, weight.dim() - 2))),
            stride=stride,
            height=call.out.shape[2],
            width=prod(call.out.shape[3:]),
            macs=positions * weight.numel(),
            tensor=name,
            dims=(0, 1),
            macs_per_weight=positions * area,
        )
    )
    return produced.view(1, -1, *[1] * (call.out.dim() - 2)).expand(call.out.shape)


def tie_groups(tracer: Tracer, channels: Tensor, groups: int) -> Tensor:
    """Groups stay equally wide only if the i-th channel of each goes together with the others'."""
    rows = channels.reshape(groups, -1)
    tracer.ids.unite(rows[:1], rows)
    return channels


def _produce(tracer: Tracer, name: str, dim: int, fresh: Tensor, bias: Tensor | None) -> Tensor:
    return _ride_bias(tracer, bias, tracer.ids.use(name, dim, "out", fresh))


def _follow_gains(tracer: Tracer, source: Weight, produced: Tensor) -> None:
    for gain in source.gains:
        ids = tracer.of(gain)
        if ids.numel() == produced.numel():
            tracer.ids.unite(produced, ids.flatten())


def _ride_bias(tracer: Tracer, bias: Tensor | None, channels: Tensor) -> Tensor:
    if bias is not None:
        ride_along(tracer, bias, 0, channels)
    return channels


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0] or parameter
