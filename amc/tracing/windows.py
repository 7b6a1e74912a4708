"""Rules of operations that look at windows of a dimension: pooling, resizing, strides."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from amc.tracing.ids import compress, core
from amc.tracing.relations import split
from amc.tracing.rules import Call, Tracer, movement, rule


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d")
@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d")
@rule(
    "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d", "_upsample_nearest_exact2d"
)
def resampling(tracer: Tracer, call: Call) -> Any:
    """Pooling and resizing mix positions, never channels: (N, C, ...) or (C, ...) keeps its C."""
    rank = int(str(call.operation.overloadpacket)[-2])  # aten.max_pool2d
    channels = tracer.ids.along(tracer.of(call.args[0]), -rank - 1).view(-1, *[1] * rank)
    return tree_map_only(Tensor, lambda t: channels.expand(t.shape), call.out)


@rule("glu")
def glu(tracer: Tracer, call: Call) -> Tensor:
    """The second half of a dimension gates the first."""
    dim = call.args[1] if len(call.args) > 1 else -1
    half, gate = torch.chunk(tracer.of(call.args[0]), 2, dim)
    tracer.ids.unite(core(half), core(gate))
    return compress(torch.where(half != 0, half, gate))


@rule("im2col")
def im2col(tracer: Tracer, call: Call) -> Tensor:
    """Patches of a feature map: (N, C, H, W) becomes (N, C * area, positions)."""
    channels: Tensor = tracer.ids.along(tracer.of(call.args[0]), -3)
    area = call.out.shape[-2] // len(channels)
    return channels.repeat_interleave(area)[:, None].expand(call.out.shape)


@rule("col2im")
def col2im(tracer: Tracer, call: Call) -> Tensor:
    """The sum of overlapping patches: (N, C * area, positions) becomes (N, C, H, W)."""
    rows = tracer.ids.along(tracer.of(call.args[0]), -2).reshape(call.out.shape[-3], -1)
    return tracer.ids.along(rows, 0)[:, None, None].expand(call.out.shape)


@rule("torchvision.roi_align", "torchvision.roi_pool")
def roi_align(tracer: Tracer, call: Call) -> Tensor:
    """Regions of a feature map: (N, C, H, W) becomes (regions, C, h, w)."""
    channels = tracer.ids.along(tracer.of(call.args[0]), 1)
    return channels[:, None, None].expand(call.out.shape)


@rule("slice")
def strided(tracer: Tracer, call: Call) -> Any:
    """``x[:, ::2]`` takes the same channels as before only if they are removed in pairs."""
    named = dict(zip(("dim", "start", "end", "step"), call.args[1:], strict=False))
    dim, step = named.get("dim", 0), named.get("step", 1)
    ids = core(tracer.of(call.args[0]))
    if step > 1 and ids.shape[dim] > 1 and (named.get("start") or 0) < step:
        rows = ids.movedim(dim, 0)
        for run in rows.split(step):
            tracer.ids.unite(run[:1], run)
    return movement(tracer, call)


@rule("channel_shuffle")
def channel_shuffle(tracer: Tracer, call: Call) -> Any:
    """Groups of channels take turns: they stay equal only if they lose the same channels."""
    split(tracer.ids, tracer.ids.along(tracer.of(call.args[0]), 1).reshape(call.args[1], -1))
    return movement(tracer, call)
