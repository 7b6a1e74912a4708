"""Operations with weights: what they consume, what they produce, and what they cost."""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor

from amc.tracing.ids import core
from amc.tracing.rules import Call, Tracer, count, opaque, ride_along, rule
from amc.tracing.weights import Weight, weight_of

WEIGHTED = {f"aten.{name}" for name in ("linear", "convolution", "_convolution", "embedding")}
"""Operations that use a weight, rather than compute one; even on a buffer of the network's."""


@rule("linear")
def linear(tracer: Tracer, call: Call) -> Any:
    """(..., K) times an (N, K) weight: consumes ids along the last dimension, makes new ones."""
    x, weight, bias = (*call.args, None)[:3]
    found = weight_of(tracer, weight, 0, 1)
    if found is None:
        return opaque(tracer, call)
    return apply_matrix(tracer, call, x, found, bias)


def apply_matrix(
    tracer: Tracer, call: Call, x: Tensor, weight: Weight, bias: Tensor | None
) -> Tensor:
    """A matrix of (features out, features in), in either order, along the last dimension."""
    ids = core(tracer.of(x))
    if ids.shape[-1] == 1 and ids.numel() > 1:  # the channels lie elsewhere: it mixes positions
        macs = prod(call.out.shape) * weight.inputs
        count(tracer, weight.owner, macs, ids, "linear")
        return ids.expand(call.out.shape)
    factor = None if str(call.operation.overloadpacket) in WEIGHTED else x.dim() - 1
    weight.consume(tracer, tracer.ids.along(tracer.of(x), -1), call.place, factor)
    produced = _ride_bias(tracer, bias, weight.produce(tracer, tracer.ids.fresh(weight.outputs)))
    positions = prod(call.out.shape[:-1])
    tracer.layers.append(
        weight.layer(
            kind="linear",
            in_channels=weight.inputs,
            out_channels=weight.outputs,
            positions=positions,
        )
    )
    return produced.expand(call.out.shape)


@rule("embedding")
def embedding(tracer: Tracer, call: Call) -> Tensor:
    """Rows of a (vocabulary, N) table: a producer without arithmetic."""
    found = weight_of(tracer, call.args[0], 1, 0)
    if found is None:
        return opaque(tracer, call)  # type: ignore[no-any-return]
    produced = found.produce(tracer, tracer.ids.fresh(found.outputs))
    tracer.layers.append(
        found.layer(
            kind="embedding", in_channels=found.inputs, out_channels=found.outputs, positions=0
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
    in_channels, out_channels = x.shape[1], call.out.shape[1]
    depthwise = groups > 1 and groups == in_channels
    out_axis = int(transposed and not depthwise)
    found = weight_of(tracer, weight, out_axis, 1 - out_axis)
    if found is None:
        return opaque(tracer, call)
    consumed = tracer.ids.along(tracer.of(x), 1)
    if depthwise:
        found.produce(tracer, _multiplied(consumed, weight.shape[0]), "affine")
        produced = _multiplied(consumed, out_channels)
    elif transposed:  # each of its outputs stands for one in every group
        found.consume(tracer, tie_groups(tracer, consumed, groups), call.place)
        produced = found.produce(tracer, tracer.ids.fresh(found.outputs)).repeat(groups)
    else:
        consumed = tie_groups(tracer, consumed, groups)
        found.consume(tracer, consumed[: in_channels // groups], call.place)
        produced = found.produce(tracer, tie_groups(tracer, tracer.ids.fresh(out_channels), groups))
    produced = _ride_bias(tracer, bias, produced)
    positions = prod((x if transposed else call.out).shape[2:]) * call.out.shape[0]
    area = prod(weight.shape[2:])
    tracer.layers.append(
        found.layer(
            kind="depthwise" if depthwise else "conv",
            in_channels=in_channels,
            out_channels=out_channels,
            kernel=round(area ** (1 / max(1, weight.dim() - 2))),
            stride=stride,
            height=call.out.shape[2],
            width=prod(call.out.shape[3:]),
            positions=positions * area,
        )
    )
    return produced.view(1, -1, *[1] * (call.out.dim() - 2)).expand(call.out.shape)


def _multiplied(channels: Tensor, count: int) -> Tensor:
    """Each of the ids so often that there are ``count``."""
    return channels.repeat_interleave(count // len(channels))


def tie_groups(tracer: Tracer, channels: Tensor, groups: int) -> Tensor:
    """Groups stay equally wide only if the i-th channel of each goes together with the others'."""
    rows = channels.reshape(groups, -1)
    tracer.ids.unite(rows[:1], rows)
    return channels


def _ride_bias(tracer: Tracer, bias: Tensor | None, channels: Tensor) -> Tensor:
    if bias is not None:
        ride_along(tracer, bias, 0, channels)
    return channels
