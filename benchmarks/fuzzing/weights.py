"""Weights that the forward computes from stored ones."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from .blocks import Block, Draw, Shape, kind, same, width
from .layers import CONVOLUTIONS
from .live import Kept, Live


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Stride 1, sides as they are; a (out, in) weight is linear."""
    if weight.dim() == 2:
        return functional.linear(x, weight, bias)
    padding = weight.shape[2] // 2
    return CONVOLUTIONS[weight.dim() - 3](x, weight, bias, padding=padding)


def _made(kept: Kept, x: Live, weight: Tensor, small: Tensor, bias: Tensor | None) -> Live:
    """What a layer gives whose weight ``small`` was computed from the stored ``weight``."""
    kept.agree(x.index, kept.of(weight, 1), "a computed weight")
    produced = kept.of(weight, 0)
    if bias is not None:
        kept.agree(produced, kept.of(bias, 0), "its bias")
        bias = kept.cut(bias)
    dim = 1 if weight.dim() > 2 else -1
    return Live(_convolve(x.values, small, bias), produced, weight.shape[0], dim)


def _norm(weight: Tensor) -> Tensor:
    """(out, 1, ...) length of each output's weights."""
    return weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1))


@kind()
class WeightNorm(Block):
    """torch.nn.utils.weight_norm, in its old and its new form."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        out = width(draw)
        super().__init__(shape.of(out))
        layer = same(draw, shape, out)
        self.old = draw.chance(0.4)
        if self.old:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.layer = nn.utils.weight_norm(layer)
        else:
            self.layer = parametrizations.weight_norm(layer)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.layer(x))

    def reference(self, x: Live, kept: Kept) -> Live:
        layer: Any = self.layer
        if self.old:
            gain, weight = layer.weight_g, layer.weight_v
        else:
            gain, weight = (getattr(layer.parametrizations.weight, f"original{n}") for n in (0, 1))
        kept.agree(kept.of(weight, 0), kept.of(gain, 0), "gain")
        small = kept.cut(weight)
        small = small * (kept.cut(gain) / _norm(small))
        return _made(kept, x, weight, small, layer.bias).map(torch.relu)


@kind()
class SpectralNorm(Block):
    """torch.nn.utils.parametrizations.spectral_norm."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        out = width(draw)
        super().__init__(shape.of(out))
        self.layer = parametrizations.spectral_norm(same(draw, shape, out))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.layer(x))

    def reference(self, x: Live, kept: Kept) -> Live:
        layer: Any = self.layer
        made = layer.parametrizations.weight
        weight, state = made.original, made[0]
        small = kept.cut(weight)
        area = weight[0, 0].numel()
        columns = (kept.of(weight, 1)[:, None] * area + torch.arange(area)).flatten()
        kept.agree(kept.of(weight, 0), kept.of(state._u, 0), "left singular vector")
        kept.agree(columns, kept.of(state._v, 0), "right singular vector")
        sigma = kept.cut(state._u) @ small.flatten(1) @ kept.cut(state._v)
        return _made(kept, x, weight, small / sigma, layer.bias).map(torch.relu)


@kind()
class ComputedWeight(Block):
    """A weight of one's own, times a scale, masked, reshaped or standardised before its use."""

    mask: Tensor

    def __init__(self, draw: Draw, shape: Shape) -> None:
        out = width(draw)
        super().__init__(shape.of(out))
        area = () if shape.domain != "map" else (3,) * shape.rank
        self.weight = nn.Parameter(torch.randn(out, shape.channels, *area) * 0.3)
        self.bias = nn.Parameter(torch.zeros(out)) if draw.chance() else None
        self.gain = nn.Parameter(torch.ones(out, *[1] * (len(area) + 1)))
        self.scale = 0.7
        self.out_channels, self.in_channels = out, shape.channels
        self.register_buffer("mask", (torch.rand(self.weight.shape) > 0.2).float())
        self.style = draw.of(
            "scale",
            "gain",
            "both",
            "mask",
            "standard",
            "length",
            "slice",
            "sliced_all",
            "centre",
            "clip",
            "sign",
            "symmetric",
            "exp",
            "view",
            "cat",
            "half",
        )

    def made(self, weight: Tensor, gain: Tensor, mask: Tensor) -> Tensor:
        """The weight that is used, of any part of the stored one."""
        over = list(range(1, weight.dim()))
        style = self.style
        if style in ("gain", "both"):
            weight = weight * gain
        if style in ("scale", "both"):
            weight = weight * self.scale
        elif style == "mask":
            weight = weight * mask
        elif style == "standard":
            var, mean = torch.var_mean(weight, dim=over, keepdim=True, unbiased=False)
            weight = (weight - mean) * torch.rsqrt(var + 1e-5) * gain
        elif style == "centre":
            weight = weight - weight.mean(over, keepdim=True)
        elif style == "length":
            weight = functional.normalize(weight.flatten(1), dim=1).view_as(weight) * gain
        elif style == "clip":
            weight = weight.clamp(-0.3, 0.3).tanh()
        elif style == "sign":  # XNOR-Net: signs and a size for each output
            weight = weight.sign() * weight.abs().mean(over, keepdim=True)
        elif style == "exp":
            weight = weight.exp() / 3
        elif style == "symmetric":
            weight = (weight + weight.flip(-1)) / 2 if weight.dim() > 2 else weight * 0.5
        elif style == "half":
            weight = weight.to(torch.bfloat16).to(weight.dtype)
        return weight

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor | None = self.bias
        if self.style == "slice":
            weight = weight[: self.out_channels]
            bias = None if bias is None else bias[: self.out_channels]
        elif self.style == "sliced_all":
            weight = weight[: self.out_channels, : self.in_channels].contiguous()
        elif self.style == "view":
            weight = weight.view(self.out_channels, -1).view(weight.shape)
        elif self.style == "cat":
            weight = torch.cat([weight[:2], weight[2:]], 0)
        else:
            weight = self.made(weight, self.gain, self.mask)
        return functional.silu(_convolve(x, weight, bias))

    def reference(self, x: Live, kept: Kept) -> Live:
        small = kept.cut(self.weight)
        gain, mask = kept.cut(self.gain), kept.cut(self.mask)
        if self.style in ("gain", "both", "standard", "length"):
            kept.agree(kept.of(self.weight, 0), kept.of(self.gain, 0), "gain")
        if self.style == "mask":
            for dim in (0, 1):
                kept.agree(kept.of(self.weight, dim), kept.of(self.mask, dim), "mask")
        made = self.made(small, gain, mask)
        return _made(kept, x, self.weight, made, self.bias).map(functional.silu)


@kind("tokens", "vector")
class RawMatrix(Block):
    """A matrix that is no layer's: x @ w, w.t(), einsum, addmm, and products of two (LoRA)."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        out = width(draw)
        super().__init__(shape.of(out))
        self.style = draw.of("matmul", "t", "einsum", "linear_t", "lora", "lora_path", "stacked")
        self.weight = nn.Parameter(torch.randn(shape.channels, out) * 0.4)
        self.bias = nn.Parameter(torch.zeros(out))
        self.down = nn.Parameter(torch.randn(shape.channels, 2) * 0.4)
        self.up = nn.Parameter(torch.randn(2, out) * 0.4)
        self.stack = nn.Parameter(torch.randn(2, shape.channels, out) * 0.4)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "matmul":
            y = x @ self.weight
        elif self.style == "t":
            y = functional.linear(x, self.weight.t())
        elif self.style == "einsum":
            y = torch.einsum("...i,io->...o", x, self.weight)
        elif self.style == "linear_t":
            y = torch.matmul(x, self.weight.transpose(0, 1).T)
        elif self.style == "lora":
            y = x @ (self.weight + self.down @ self.up)
        elif self.style == "lora_path":
            y = x @ self.weight + x @ self.down @ self.up * 0.5
        else:
            y = x @ self.stack[0] + (x @ self.stack[1]).tanh()
        return torch.relu(y + self.bias)

    def reference(self, x: Live, kept: Kept) -> Live:
        def times(tensor: Tensor, given: Live = x) -> Live:
            values = given.values @ kept.meet(given, tensor, tensor.dim() - 2)
            return Live(values, kept.of(tensor, -1), tensor.shape[-1], -1)

        if self.style == "stacked":
            stack = kept.meet(x, self.stack, 1)
            if len(stack) < 2:
                kept.agree(kept.of(self.stack, 0), torch.arange(2), "stack")
            values = x.values @ stack[0] + (x.values @ stack[1]).tanh()
            y = Live(values, kept.of(self.stack, 2), self.stack.shape[2], -1)
        else:
            y = times(self.weight)
        if self.style in ("lora", "lora_path"):
            part = times(self.up, times(self.down))
            kept.agree(y.index, part.index, "low-rank part")
            factor = 1.0 if self.style == "lora" else 0.5
            y = Live(y.values + factor * part.values, y.index, y.size, -1)
        bias = kept.vector(y, self.bias)
        return y.map(lambda v: (v + bias).relu())


@kind()
class Reused(Block):
    """One layer twice, or its weight used again: transposed, or by its own hand."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.layer = same(draw, shape, shape.channels)
        self.style = draw.of("twice", "thrice", "transposed", "functional")

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.layer(x))
        if self.style == "twice":
            return self.layer(y)
        if self.style == "thrice":
            for _ in range(2):
                y = torch.tanh(self.layer(y) + x)
            return y
        weight = self.layer.weight
        if self.style == "transposed":
            return _convolve(y, weight.transpose(0, 1))
        return _convolve(y, weight) + x

    def reference(self, x: Live, kept: Kept) -> Live:
        weight = self.layer.weight
        y = kept.apply(self.layer, x).map(torch.tanh)
        if self.style == "twice":
            return kept.apply(self.layer, y)
        if self.style == "thrice":
            for _ in range(2):
                again = kept.apply(self.layer, y)
                kept.agree(again.index, x.index, "residual")
                y = Live((again.values + x.values).tanh(), x.index, x.size, x.dim)
            return y
        small = kept.cut(weight)
        if self.style == "transposed":
            kept.agree(y.index, kept.of(weight, 0), "transposed weight")
            values = _convolve(y.values, small.transpose(0, 1))
            return Live(values, kept.of(weight, 1), weight.shape[1], x.dim)
        kept.agree(y.index, kept.of(weight, 1), "its own weight")
        kept.agree(x.index, kept.of(weight, 0), "residual")
        return y.map(lambda v: _convolve(v, small) + x.values)
