"""Convolutions, norms, pooling: what most networks are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import (
    BATCH_NORM,
    CONV,
    INSTANCE_NORM,
    UP,
    Block,
    Draw,
    Shape,
    Steps,
    image,
    kind,
    rank_is,
    same,
    width,
)
from .layers import standard
from .live import Kept, Live


@kind()
def plain(draw: Draw, shape: Shape) -> Block:
    """A layer and an activation."""
    out = width(draw)
    return Steps(shape.of(out), same(draw, shape, out), draw.activation())


@kind("map")
def conv_norm(draw: Draw, shape: Shape) -> Block:
    """Convolution, BatchNorm, activation."""
    out = width(draw)
    norm = BATCH_NORM[shape.rank](out, affine=draw.chance(0.8))
    return Steps(shape.of(out), same(draw, shape, out), norm, draw.activation())


@kind("map", fits=lambda s: min(s.sides) >= 4, keeps=False)
def strided(draw: Draw, shape: Shape) -> Block:
    """A convolution that halves the sides."""
    out, size = width(draw), draw.of(1, 2, 3)
    conv = CONV[shape.rank](shape.channels, out, size, stride=2, padding=size // 2)
    sides = tuple((s + 2 * (size // 2) - size) // 2 + 1 for s in shape.sides)
    return Steps(Shape("map", out, sides), conv, nn.ReLU())


@kind("map", fits=lambda s: min(s.sides) >= 3)
def dilated(draw: Draw, shape: Shape) -> Block:
    """A dilated convolution, padded in one of four ways."""
    out, mode = width(draw), draw.of("zeros", "reflect", "replicate", "circular")
    conv = CONV[shape.rank](
        shape.channels, out, 3, padding=2, dilation=2, padding_mode=mode, bias=draw.chance()
    )
    return Steps(shape.of(out), conv, draw.activation())


@kind("map", fits=lambda s: s.channels % 2 == 0)
def grouped(draw: Draw, shape: Shape) -> Block:
    """A grouped convolution."""
    groups = draw.of(*(g for g in (2, 3, 4) if shape.channels % g == 0 and shape.channels > g))
    out = groups * draw.of(2, 3)
    conv = CONV[shape.rank](shape.channels, out, 3, padding=1, groups=groups)
    return Steps(shape.of(out), conv, nn.ReLU())


@kind("map")
def separable(draw: Draw, shape: Shape) -> Block:
    """Depthwise, with one or two kernels a channel, then pointwise."""
    many, out = draw.of(1, 1, 2), width(draw)
    deep = CONV[shape.rank](
        shape.channels, many * shape.channels, 3, padding=1, groups=shape.channels
    )
    norm = BATCH_NORM[shape.rank](many * shape.channels)
    point = CONV[shape.rank](many * shape.channels, out, 1, bias=draw.chance())
    return Steps(shape.of(out), deep, norm, nn.ReLU(), point)


@kind("map", fits=lambda s: max(s.sides) <= 4, keeps=False)
def transposed(draw: Draw, shape: Shape) -> Block:
    """A transposed convolution that doubles the sides, grouped now and then."""
    groups = draw.of(1, 1, 2) if shape.channels % 2 == 0 else 1
    out = width(draw)
    up = UP[shape.rank](shape.channels, out, 2, stride=2, groups=groups, bias=draw.chance())
    return Steps(Shape("map", out, tuple(2 * s for s in shape.sides)), up, nn.ReLU())


@kind("map", fits=lambda s: max(s.sides) > 1)
def norm(draw: Draw, shape: Shape) -> Block:
    """Norms of PyTorch's after a convolution."""
    out = width(draw)
    norm: nn.Module = draw.of(
        BATCH_NORM[shape.rank](out, track_running_stats=draw.chance(0.7)),
        INSTANCE_NORM[shape.rank](out, affine=draw.chance()),
        INSTANCE_NORM[shape.rank](out, affine=True),
        nn.GroupNorm(draw.of(1, 2, out), out, affine=draw.chance(0.8)),
        nn.GroupNorm(2, out),
    )
    return Steps(shape.of(out), same(draw, shape, out), norm, draw.activation())


@kind("tokens", "vector")
def layer_norm(draw: Draw, shape: Shape) -> Block:
    """Linear and LayerNorm, with or without its scale and shift."""
    out = width(draw)
    norm = nn.LayerNorm(out, elementwise_affine=draw.chance(0.7), bias=draw.chance())
    return Steps(shape.of(out), same(draw, shape, out), norm, draw.activation())


@kind("map", fits=lambda s: max(s.sides) > 1)
class LayerNorm2d(Block):
    """ConvNeXt's: LayerNorm over the channels of a map, in four spellings."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        out = width(draw)
        super().__init__(shape.of(out))
        self.conv = same(draw, shape, out)
        self.weight = nn.Parameter(torch.ones(out))
        self.bias = nn.Parameter(torch.zeros(out))
        self.shape = (out,)
        self.style = draw.of("permute", "hand", "var_mean", "view")

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.style == "permute":
            y = functional.layer_norm(x.movedim(1, -1), self.shape, self.weight, self.bias, 1e-6)
            return y.movedim(-1, 1)
        shape = (1, -1) + (1,) * (x.dim() - 2)
        if self.style == "hand":
            u = x.mean(1, keepdim=True)
            s = (x - u).pow(2).mean(1, keepdim=True)
            x = (x - u) / torch.sqrt(s + 1e-6)
        else:
            var, mean = torch.var_mean(x, dim=1, unbiased=False, keepdim=True)
            x = (x - mean) * torch.rsqrt(var + 1e-6)
        if self.style == "view":
            shape = (1, len(self.weight)) + (1,) * (x.dim() - 2)
        return x * self.weight.view(shape) + self.bias.reshape(shape)

    def reference(self, x: Live, kept: Kept) -> Live:
        x = standard(kept.apply(self.conv, x), [1], 1e-6)
        scale, shift = kept.vector(x, self.weight), kept.vector(x, self.bias)
        return x.map(lambda v: v * scale + shift)


@kind("tokens", "vector")
class RMSNorm(Block):
    """Root mean square over channels, as LLaMA writes it, or by F.normalize, or PyTorch's."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        out = width(draw)
        super().__init__(shape.of(out))
        self.proj = same(draw, shape, out)
        self.weight = nn.Parameter(torch.ones(out))
        self.scale = out**0.5
        self.dim = out
        self.style = draw.of("llama", "normalize", "torch", "norm")

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        if self.style == "llama":
            return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))
        if self.style == "normalize":
            return functional.normalize(x, dim=-1) * self.scale * self.weight
        if self.style == "norm":
            return x / (x.norm(2, dim=-1, keepdim=True) / self.scale + 1e-8) * self.weight
        return functional.rms_norm(x, (self.dim,), self.weight, 1e-6)

    def reference(self, x: Live, kept: Kept) -> Live:
        x = kept.apply(self.proj, x)
        weight = kept.meet(x, self.weight, 0)
        if self.style in ("normalize", "norm"):
            norm = x.values.square().sum(-1, keepdim=True).sqrt()
            low = norm.clamp(min=1e-12) if self.style == "normalize" else norm + 1e-8 * self.scale
            return x.map(lambda v: v / low * self.scale * weight)
        mean = x.values.square().mean(-1, keepdim=True)
        return x.map(lambda v: v / (mean + 1e-6).sqrt() * weight)


@kind("map", fits=lambda s: min(s.sides) >= 4, keeps=False)
def pooled(draw: Draw, shape: Shape) -> Block:
    """Max, average and adaptive pooling, and strides by indexing."""
    half = Shape("map", shape.channels, tuple(s // 2 for s in shape.sides))
    name = f"{shape.rank}d"
    pool = draw.of(
        getattr(nn, "MaxPool" + name)(2),
        getattr(nn, "AvgPool" + name)(2),
        getattr(nn, "AdaptiveAvgPool" + name)(half.sides),
        getattr(nn, "AdaptiveMaxPool" + name)(half.sides),
    )
    return Steps(half, pool)


@kind("map", fits=lambda s: max(s.sides) <= 4 and s.rank < 3, keeps=False)
def resized(draw: Draw, shape: Shape) -> Block:
    """Upsampling, nearest or linear."""
    modes = ("nearest", "linear") if shape.rank == 1 else ("nearest", "bilinear", "bicubic")
    up = nn.Upsample(scale_factor=2, mode=draw.of(*modes))
    return Steps(Shape("map", shape.channels, tuple(2 * s for s in shape.sides)), up)


@kind("map", fits=image, keeps=False)
class PixelShuffle(Block):
    """Space to channels or channels to space."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        up = max(shape.sides) <= 4 and shape.channels % 4 == 0
        step = [s * 2 if up else s // 2 for s in shape.sides]
        channels = shape.channels // 4 if up else shape.channels * 4
        super().__init__(Shape("map", channels, tuple(step)))
        self.up = up
        self.sides = shape.sides

    def forward(self, x: Tensor) -> Tensor:
        if self.up:
            return functional.pixel_shuffle(x, 2)
        return functional.pixel_unshuffle(
            x[..., : self.sides[0] // 2 * 2, : self.sides[1] // 2 * 2], 2
        )

    def reference(self, x: Live, kept: Kept) -> Live:
        if not self.up:
            places = (x.index[:, None] * 4 + torch.arange(4)).flatten()
            return Live(self(x.values), places, x.size * 4, 1)
        groups = x.index.view(-1, 4) if len(x.index) % 4 == 0 else x.whole()
        whole = groups[:, :1] // 4 * 4 + torch.arange(4)
        kept.agree(whole.flatten(), x.index, "pixel_shuffle")
        return Live(self(x.values), groups[:, 0] // 4, x.size // 4, 1)


@kind("map", fits=rank_is(1, 2))
class Pieces(Block):
    """PReLU, dropout, identity, clamps, where, lerp and other pointwise code."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.slope = nn.PReLU(draw.of(1, shape.channels))
        self.drop = nn.Dropout(0.1)
        self.mix = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        y = self.drop(self.slope(x)).clamp(-3, 3)
        y = torch.where(x > 0.1, y, (x.abs() + 0.1).sqrt() * 0.3)
        y = torch.lerp(y, torch.maximum(x, y * 0.5), 0.3)
        return torch.addcmul(y, x, y, value=0.1) * self.mix.sigmoid() + 0.1

    def reference(self, x: Live, kept: Kept) -> Live:
        v, y = x.values, kept.apply(self.slope, x).values.clamp(-3, 3)
        y = torch.where(v > 0.1, y, (v.abs() + 0.1).sqrt() * 0.3)
        y = y + 0.3 * (torch.maximum(v, y * 0.5) - y)
        y = (y + 0.1 * v * y) * self.mix.sigmoid() + 0.1
        return x.map(lambda _: y)
