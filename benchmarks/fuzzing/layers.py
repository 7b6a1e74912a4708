"""References of PyTorch's own layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from .live import LAYERS, Kept, Live, MismatchError, cat

CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED = (
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
)


def convolution(kept: Kept, layer: Any, x: Live) -> Live:
    """Of any rank, groups and padding, plain or transposed, as one without groups."""
    weight, groups = layer.weight, layer.groups
    transposed = isinstance(layer, _ConvTransposeNd)
    ungrouped = _ungrouped(weight, groups)
    into, out_of = (0, 1) if transposed else (1, 0)
    outputs = ungrouped.shape[out_of]
    if groups == x.size > 1:  # depthwise: as many groups as channels are left
        many = outputs // groups
        produced = (x.index[:, None] * many + torch.arange(many)).flatten()
        stored = x.index if transposed else produced
        kept.agree(stored, kept.of(weight, 0), "depthwise convolution")
    else:
        produced = _produced(kept, weight, groups, x, transposed)
    small = ungrouped.index_select(into, x.index).index_select(out_of, produced)
    bias = None if layer.bias is None else _cut_like(kept, layer.bias, produced)
    rank = weight.dim() - 2
    values = x.values
    if transposed:
        values = TRANSPOSED[rank - 1](
            values,
            small,
            bias,
            layer.stride,
            layer.padding,
            layer.output_padding,
            1,
            layer.dilation,
        )
        return Live(values, produced, outputs, 1)
    padding = layer.padding
    if layer.padding_mode != "zeros":
        sides = [p for p in reversed(padding) for _ in (0, 1)]
        values, padding = functional.pad(values, sides, layer.padding_mode), 0
    values = CONVOLUTIONS[rank - 1](values, small, bias, layer.stride, padding, layer.dilation)
    return Live(values, produced, outputs, 1)


def _produced(kept: Kept, weight: Tensor, groups: int, x: Live, transposed: bool) -> Tensor:
    """The output channels that are left; the weight must expect the input channels that are."""
    stored = kept.of(weight, 0), kept.of(weight, 1)
    step = x.size // groups
    if not transposed:
        for g in range(groups):
            own = x.index[(x.index >= g * step) & (x.index < (g + 1) * step)]
            kept.agree(own - g * step, stored[1], "convolution")
        return stored[0]
    kept.agree(x.index, stored[0], "transposed convolution")
    each = weight.shape[1]
    return (torch.arange(groups)[:, None] * each + stored[1]).flatten()


def _cut_like(kept: Kept, vector: Tensor, index: Tensor) -> Tensor:
    kept.agree(index, kept.of(vector, 0), "bias")
    return kept.cut(vector)


def _ungrouped(weight: Tensor, groups: int) -> Tensor:
    """The block-diagonal (out, in, ...) weight, transposed (in, out, ...), of one group."""
    if groups == 1:
        return weight
    rows, columns = weight.shape[0] // groups, weight.shape[1]
    full = weight.new_zeros(weight.shape[0], columns * groups, *weight.shape[2:])
    for g in range(groups):
        block = slice(g * rows, (g + 1) * rows)
        full[block, g * columns : (g + 1) * columns] = weight[block]
    return full


def linear(kept: Kept, layer: Any, x: Live) -> Live:
    """Along the last dimension."""
    weight = kept.meet(x, layer.weight, 1)
    produced = kept.of(layer.weight, 0)
    bias = None if layer.bias is None else _cut_like(kept, layer.bias, produced)
    return Live(functional.linear(x.values, weight, bias), produced, len(layer.weight), -1)


def affine(kept: Kept, layer: Any, x: Live) -> Live:
    """What comes after a norm: a scale and a shift."""
    if layer.weight is not None:
        scale = kept.vector(x, layer.weight)
        x = x.map(lambda v: v * scale)
    shift = kept.vector(x, getattr(layer, "bias", None))
    return x.map(lambda v: v + shift)


def batch_norm(kept: Kept, layer: Any, x: Live) -> Live:
    """By running statistics."""
    if layer.running_mean is None:
        dims = [d for d in range(x.values.dim()) if d != 1]
        return affine(kept, layer, standard(x, dims, layer.eps))
    mean, var = kept.vector(x, layer.running_mean), kept.vector(x, layer.running_var)
    return affine(kept, layer, x.map(lambda v: (v - mean) / (var + layer.eps).sqrt()))


def standard(x: Live, dims: Sequence[int], eps: float) -> Live:
    """Mean 0 and variance 1 over ``dims``."""
    dims = list(dims)

    def normalised(v: Tensor) -> Tensor:
        away = v - v.mean(dims, keepdim=True)
        return away / (away.square().mean(dims, keepdim=True) + eps).sqrt()

    return x.map(normalised)


def instance_norm(kept: Kept, layer: Any, x: Live) -> Live:
    """Each channel of each sample by itself."""
    return affine(kept, layer, standard(x, range(2, x.values.dim()), layer.eps))


def group_norm(kept: Kept, layer: Any, x: Live) -> Live:
    """Over the channels that are left of each group; a group of one goes with its channel."""
    if layer.num_groups == x.size:
        return affine(kept, layer, standard(x, range(2, x.values.dim()), layer.eps))
    dims = range(1, x.values.dim())
    parts = [standard(part, dims, layer.eps) for part in x.chunk(layer.num_groups)]
    if len({len(part.index) for part in parts}) > 1:
        raise MismatchError("groups of a norm are left with different numbers of channels")
    return affine(kept, layer, cat(parts))


def layer_norm(kept: Kept, layer: Any, x: Live) -> Live:
    """Over the last dimension, or more of them where no channel is missing."""
    if len(layer.normalized_shape) > 1 or x.dim not in (-1, x.values.dim() - 1):
        return x.map(lambda _: layer(x.whole()))
    return affine(kept, layer, standard(x, [-1], layer.eps))


def prelu(kept: Kept, layer: Any, x: Live) -> Live:
    """One slope, or one for each channel."""
    slope = layer.weight if layer.weight.numel() == 1 else kept.vector(x, layer.weight)
    return x.map(lambda v: torch.where(v > 0, v, slope * v))


LAYERS += (
    (_ConvNd, convolution),
    (nn.Linear, linear),
    (_BatchNorm, batch_norm),
    (_InstanceNorm, instance_norm),
    (nn.GroupNorm, group_norm),
    (nn.LayerNorm, layer_norm),
    (nn.PReLU, prelu),
)
