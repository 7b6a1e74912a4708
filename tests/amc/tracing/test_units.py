"""The rules on hand-written networks: which channels go together, and which stay, and why.

Every expectation is worked out by hand; every unit found is then cut, alone and with the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import Conv2d, Linear, functional
from torch.utils.flop_counter import FlopCounterMode

from amc.cost.table import CostTable
from amc.pruning.find_units import find_units, read_units
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify
from amc.tracing.units import Units
from tests.by_hand import Net

IMAGES = (2, 3, 8, 8)
TOKENS = (2, 5, 6)


@dataclass(frozen=True)
class Case:
    """A network and what must be found in it."""

    model: nn.Module
    units: dict[str, tuple[str, int, int, set[str]]]
    """Kind, width, granularity, and ``tensor:dim`` of every use."""
    frozen: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Channels and reason; a reason that ends in ``@`` goes on with the line marked by the case."""
    shape: tuple[int, ...] = IMAGES


def line_marked(name: str) -> str:
    lines = Path(__file__).read_text().splitlines()
    number = next(i for i, text in enumerate(lines, 1) if text.endswith(f"# marked: {name}"))
    return f"test_units.py:{number}"


def line(function: Callable[..., Any]) -> int:
    return function.__code__.co_firstlineno


def uses(*layers: str, reader: str, dim: int = 1) -> set[str]:
    """Weight rows and biases of ``layers``, and the columns of ``reader``."""
    rows = {f"{layer}.{tensor}:0" for layer in layers for tensor in ("weight", "bias")}
    return rows | {f"{reader}.weight:{dim}"}


def shuffled(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def positions(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)


def hard_coded(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    y = y.reshape(2, 8 * 36)  # marked: hard-coded reshape
    return s.b(y)


def spectrum(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    y = torch.fft.rfft2(y).abs()  # marked: unknown operation
    return s.b(y)


def over_channels(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    y = torch.softmax(y, 1)  # marked: softmax over channels
    return s.b(y)


def spatial_gate(s: Any, x: Tensor) -> Tensor:
    y, gate = s.a(x), s.b(x)
    return s.c(y * torch.sigmoid(gate))  # marked: one-channel gate


def attention(s: Any, x: Tensor) -> Tensor:
    scores = s.q(x) @ s.k(x).transpose(1, 2)  # marked: product of activations
    return s.o(torch.softmax(scores, 2) @ s.v(x))


def heads(s: Any, x: Tensor) -> Tensor:
    q, k, v = (s.qkv(x).view(2, 5, 3, s.heads, 4)).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(2, 3) / 2 + s.bias[s.index].permute(2, 0, 1)).softmax(3)
    return s.o((scores @ v).transpose(1, 2).flatten(2))


def as_wide(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    n, t, c = y.shape
    q, k, v = s.qkv(y).view(n, t, 3, s.heads, c // s.heads).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(2, 3)).softmax(3)
    return s.o((scores @ v).transpose(1, 2).reshape(n, t, c))


def standardised(s: Any, x: Tensor) -> Tensor:
    rows = s.b.weight.reshape(1, len(s.b.weight), -1)
    rows = functional.batch_norm(rows, None, None, s.gain.view(-1), training=True)
    return s.c(functional.conv2d(s.a(x), rows.reshape_as(s.b.weight), s.b.bias))


def fused(s: Any, x: Tensor) -> Tensor:
    q, k, v = (f(x).unflatten(2, (s.heads, 4)).transpose(1, 2) for f in (s.q, s.k, s.v))
    y = functional.scaled_dot_product_attention(q, k, v)
    return s.o(y.transpose(1, 2).reshape(2, 5, s.heads * 4))


def mixing_tokens(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    return s.b(y + s.mix(s.norm(y).transpose(1, 2)).transpose(1, 2))


def written(s: Any, x: Tensor) -> Tensor:
    y, buffer = s.a(x), torch.zeros(2, 8, 8, 8)
    buffer[:, : y.shape[1]] = y
    return s.b(buffer)


OUT = (2, "network output")
HEADS = ("heads", 2, 12, {"mha.in_proj_weight:0", "mha.in_proj_bias:0", "mha.out_proj.weight:1"})
CASES: dict[str, Callable[[], Case]] = {
    "chain": lambda: Case(
        nn.Sequential(Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), Conv2d(8, 2, 3)),
        {
            "0": (
                "conv",
                8,
                1,
                uses("0", "1", reader="3") | {"1.running_mean:0", "1.running_var:0"},
            )
        },
        {"3": OUT},
    ),
    "residual add": lambda: Case(
        Net(
            lambda s, x: s.c((y := s.a(x)) + s.b2(torch.relu(s.b1(y)))),
            a=Conv2d(3, 8, 1),
            b1=Conv2d(8, 5, 1),
            b2=Conv2d(5, 8, 1),
            c=Conv2d(8, 2, 1),
        ),
        {
            "a": ("stream", 8, 1, uses("a", "b2", reader="b1") | {"c.weight:1"}),
            "b1": ("conv", 5, 1, uses("b1", reader="b2")),
        },
        {"c": OUT},
    ),
    "squeeze and excitation": lambda: Case(
        Net(
            lambda s, x: s.c((y := s.a(x)) * torch.sigmoid(s.up(s.down(positions(y))))),
            a=Conv2d(3, 8, 1),
            down=Conv2d(8, 4, 1),
            up=Conv2d(4, 8, 1),
            c=Conv2d(8, 2, 1),
        ),
        {
            "a": ("stream", 8, 1, uses("a", "up", reader="down") | {"c.weight:1"}),
            "down": ("conv", 4, 1, uses("down", reader="up")),
        },
        {"c": OUT},
    ),
    "gate of two halves": lambda: Case(
        Net(
            lambda s, x: s.c((h := s.a(x).chunk(2, 1))[0] * torch.sigmoid(h[1])),
            a=Conv2d(3, 8, 1),
            c=Conv2d(4, 2, 1),
        ),
        {"a": ("conv", 4, 2, uses("a", reader="c"))},
        {"c": OUT},
    ),
    "concatenation": lambda: Case(
        Net(
            lambda s, x: s.c(torch.cat([s.a(x), x, s.b(x)], 1)),
            a=Conv2d(3, 4, 1),
            b=Conv2d(3, 6, 1),
            c=Conv2d(13, 2, 1),
        ),
        {
            "a": ("conv", 4, 1, uses("a", reader="c")),
            "b": ("conv", 6, 1, uses("b", reader="c")),
        },
        {"c": OUT},
    ),
    "channel shuffle": lambda: Case(
        # After the shuffle, group g of b reads channel g of every pair of a's: 0, 8, 1, 9, ...
        Net(
            lambda s, x: s.c(s.b(shuffled(s.a(s.z(x)), 2))),
            z=Conv2d(3, 16, 1),
            a=Conv2d(16, 16, 1, groups=2),
            b=Conv2d(16, 16, 1, groups=2),
            c=Conv2d(16, 2, 1),
        ),
        {
            "z": ("conv", 8, 2, uses("z", reader="a")),
            "a": ("conv", 4, 4, uses("a", reader="b")),
            "b": ("conv", 8, 2, uses("b", reader="c")),
        },
        {"c": OUT},
    ),
    "flatten after pooling": lambda: Case(
        Net(
            lambda s, x: s.b(torch.flatten(functional.adaptive_avg_pool2d(s.a(x), (2, 3)), 1)),
            a=Conv2d(3, 8, 3),
            b=Linear(48, 2),
        ),
        {"a": ("conv", 8, 1, uses("a", reader="b"))},
        {"b": OUT},
    ),
    "grouped convolution": lambda: Case(
        nn.Sequential(Conv2d(3, 12, 1), Conv2d(12, 8, 3, groups=4), Conv2d(8, 2, 1)),
        {
            "0": ("conv", 3, 4, uses("0", reader="1")),
            "1": ("conv", 2, 4, uses("1", reader="2")),
        },
        {"2": OUT},
    ),
    "depthwise with multiplier 2": lambda: Case(
        nn.Sequential(Conv2d(3, 8, 1), Conv2d(8, 16, 3, groups=8), Conv2d(16, 2, 1)),
        {"0": ("conv", 8, 1, uses("0", "1", reader="2"))},
        {"2": OUT},
    ),
    "transposed convolution": lambda: Case(
        nn.Sequential(Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 6, 2, stride=2), Conv2d(6, 2, 1)),
        {
            "0": ("conv", 8, 1, uses("0", reader="1", dim=0)),
            "1": ("conv", 6, 1, {"1.weight:1", "1.bias:0", "2.weight:1"}),
        },
        {"2": OUT},
    ),
    "one dimension": lambda: Case(
        nn.Sequential(nn.Conv1d(3, 8, 3), nn.MaxPool1d(2), nn.PReLU(8), nn.Conv1d(8, 2, 1)),
        {"0": ("conv", 8, 1, uses("0", reader="3") | {"2.weight:0"})},
        {"3": OUT},
        (2, 3, 11),
    ),
    "three dimensions": lambda: Case(
        nn.Sequential(nn.Conv3d(3, 8, 2), nn.AvgPool3d(2), nn.PReLU(), nn.Conv3d(8, 2, 1)),
        {"0": ("conv", 8, 1, uses("0", reader="3"))},
        {"3": OUT},
        (2, 3, 5, 5, 6),
    ),
    "without a batch": lambda: Case(
        Net(
            lambda s, x: s.c(functional.max_pool2d(s.a(x), 2)),
            a=Conv2d(3, 8, 3),
            c=Conv2d(8, 2, 1),
        ),
        {"a": ("conv", 8, 1, uses("a", reader="c"))},
        {"c": OUT},
        (3, 8, 8),
    ),
    "a convolution used twice": lambda: Case(
        Net(
            lambda s, x: s.d(s.c(torch.relu(s.b(torch.relu(s.b(s.a(x))))))),
            a=Conv2d(3, 8, 1),
            b=Conv2d(8, 8, 1),
            c=Conv2d(8, 5, 1),
            d=Conv2d(5, 2, 1),
        ),
        {
            "a": ("stream", 8, 1, uses("a", "b", reader="b") | {"c.weight:1"}),
            "c": ("conv", 5, 1, uses("c", reader="d")),
        },
        {"d": OUT},
    ),
    "a shared convolution stands at its first call": lambda: Case(
        Net(
            lambda s, x: s.d(s.b(s.c(s.e(torch.relu(s.b(s.a(x))))))),
            a=Conv2d(3, 8, 1),
            b=Conv2d(8, 7, 1),
            e=Conv2d(7, 5, 1),
            c=Conv2d(5, 8, 1),
            d=Conv2d(7, 2, 1),
        ),
        {
            "a": ("stream", 8, 1, uses("a", "c", reader="b")),
            "b": ("conv", 7, 1, uses("b", reader="e") | {"d.weight:1"}),
            "e": ("conv", 5, 1, uses("e", reader="c")),
        },
        {"d": OUT},
    ),
    "layer scale": lambda: Case(
        Net(
            lambda s, x: s.b(s.a(x) * s.scale),
            a=Conv2d(3, 8, 1),
            scale=nn.Parameter(torch.rand(8, 1, 1)),
            b=Conv2d(8, 2, 1),
        ),
        {"a": ("conv", 8, 1, uses("a", reader="b") | {"scale:0"})},
        {"b": OUT},
    ),
    "learned positions": lambda: Case(
        Net(
            lambda s, x: s.b(s.a(x) + s.position),
            a=Linear(6, 8),
            position=nn.Parameter(torch.rand(1, 5, 8)),
            b=Linear(8, 2),
        ),
        {"a": ("linear", 8, 1, uses("a", reader="b") | {"position:2"})},
        {"b": OUT},
        TOKENS,
    ),
    "a bias for each position": lambda: Case(
        Net(
            lambda s, x: s.b(s.a(x) + s.position),
            a=Linear(6, 8),
            position=nn.Parameter(torch.rand(1, 5, 1)),
            b=Linear(8, 2),
        ),
        {"a": ("linear", 8, 1, uses("a", reader="b"))},
        {"b": OUT},
        TOKENS,
    ),
    "a learned gain for all channels": lambda: Case(
        Net(
            lambda s, x: s.c((y := s.a(x)) + s.gain * s.b(y)),
            a=Conv2d(3, 8, 1),
            b=Conv2d(8, 8, 1),
            gain=nn.Parameter(torch.tensor(0.5)),
            c=Conv2d(8, 2, 1),
        ),
        {"a": ("stream", 8, 1, uses("a", "b", reader="b") | {"c.weight:1"})},
        {"c": OUT},
    ),
    "a buffer for each channel": lambda: Case(
        Net(
            lambda s, x: s.b(s.a(x) * s.scale + s.shift),
            a=Conv2d(3, 8, 1),
            scale=torch.rand(1, 8, 1, 1),
            shift=torch.tensor(0.5),
            b=Conv2d(8, 2, 1),
        ),
        {"a": ("conv", 8, 1, uses("a", reader="b") | {"scale:1"})},
        {"b": OUT},
    ),
    "a filter bank in a buffer": lambda: Case(
        Net(
            lambda s, x: s.b(functional.conv2d(s.a(x), s.bank)),
            a=Conv2d(3, 8, 1),
            bank=torch.rand(6, 8, 1, 1),
            b=Conv2d(6, 2, 1),
        ),
        {
            "a": ("conv", 8, 1, {"a.weight:0", "a.bias:0", "bank:1"}),
            "bank": ("conv", 6, 1, {"bank:0", "b.weight:1"}),
        },
        {"b": OUT},
    ),
    "one-channel gate": lambda: Case(
        Net(spatial_gate, a=Conv2d(3, 8, 1), b=Conv2d(3, 1, 1), c=Conv2d(8, 2, 1)),
        {"a": ("conv", 8, 1, uses("a", reader="c"))},
        {"b": (1, "broadcast over channels at @"), "c": OUT},
    ),
    "reductions over positions": lambda: Case(
        Net(
            lambda s, x: s.b(
                torch.cat(
                    [
                        (y := s.a(x)).norm(dim=(2, 3)),
                        functional.adaptive_max_pool2d(y, 1).flatten(1),
                        y.flatten(2).max(2).values,
                        y.flatten(2).var(2, unbiased=True),
                        torch.logsumexp(y, (2, 3)),
                    ],
                    1,
                )
            ),
            a=Conv2d(3, 4, 3),
            b=Linear(20, 2),
        ),
        {"a": ("conv", 4, 1, uses("a", reader="b"))},
        {"b": OUT},
    ),
    "the larger of two": lambda: Case(
        Net(
            lambda s, x: s.c(torch.max(s.a(x), s.b(x))),
            a=Conv2d(3, 8, 1),
            b=Conv2d(3, 8, 1),
            c=Conv2d(8, 2, 1),
        ),
        {"a": ("stream", 8, 1, uses("a", "b", reader="c"))},
        {"c": OUT},
    ),
    "resampling, padding, reordering": lambda: Case(
        Net(
            lambda s, x: s.b(
                functional.pad(
                    functional.interpolate(
                        functional.pixel_shuffle(s.a(x), 2), scale_factor=2.0
                    ).flip(1),
                    (1, 1, 1, 1),
                    mode="reflect",
                )
            ),
            a=Conv2d(3, 16, 1),
            b=Conv2d(4, 2, 1),
        ),
        {"a": ("conv", 4, 4, uses("a", reader="b"))},
        {"b": OUT},
    ),
    "zero padding of channels": lambda: Case(
        # Only the middle channels of the stream come from a; the padded ones are b's alone.
        Net(
            lambda s, x: s.c(functional.pad(s.a(x), (0, 0, 0, 0, 1, 2)) + s.b(x)),
            a=Conv2d(3, 5, 1),
            b=Conv2d(3, 8, 1),
            c=Conv2d(8, 2, 1),
        ),
        {"a": ("stream", 5, 1, uses("a", "b", reader="c"))},
        {"b": (3, "the code fixes how many constants it pads with: pad at"), "c": OUT},
    ),
    "zero padding of channels in numbers of attributes": lambda: Case(
        # What is padded before goes by itself, and so does what is padded behind.
        Net(
            lambda s, x: s.c(functional.pad(s.a(x), (0, 0, 0, 0, s.front, s.back)) + s.b(x)),
            a=Conv2d(3, 5, 1),
            b=Conv2d(3, 9, 1),
            c=Conv2d(9, 2, 1),
            front=2,
            back=2,
        ),
        {
            "a": ("stream", 5, 1, uses("a", "b", reader="c")),
            "b": ("conv", 2, 1, uses("b", reader="c") | {"front:0"}),
            "b#2": ("conv", 2, 1, uses("b", reader="c") | {"back:0"}),
        },
        {"c": OUT},
    ),
    "zero padding of channels by one number": lambda: Case(
        Net(
            lambda s, x: s.c(functional.pad(s.a(x), (0, 0, 0, 0, s.beside, s.beside)) + s.b(x)),
            a=Conv2d(3, 5, 1),
            b=Conv2d(3, 9, 1),
            c=Conv2d(9, 2, 1),
            beside=2,
        ),
        {
            "a": ("stream", 5, 1, uses("a", "b", reader="c")),
            "b": ("conv", 2, 2, uses("b", reader="c") | {"beside:0"}),
        },
        {"c": OUT},
    ),
    "instance norm": lambda: Case(
        nn.Sequential(Conv2d(3, 8, 1), nn.InstanceNorm2d(8, affine=True), Conv2d(8, 2, 1)),
        {"0": ("conv", 8, 1, uses("0", "1", reader="2"))},
        {"2": OUT},
    ),
    "two outputs": lambda: Case(
        Net(
            lambda s, x: {"b": s.b(y := s.a(x)), "c": [s.c(y)]},
            a=Conv2d(3, 8, 1),
            b=Conv2d(8, 2, 1),
            c=Conv2d(8, 5, 1),
        ),
        {"a": ("conv", 8, 1, uses("a", reader="b") | {"c.weight:1"})},
        {"b": OUT, "c": (5, "network output")},
    ),
    "a layer that nothing reads": lambda: Case(
        Net(
            lambda s, x: (s.side(x), s.b(s.a(x)))[1],
            side=Conv2d(3, 7, 1),
            a=Conv2d(3, 8, 1),
            b=Conv2d(8, 2, 1),
        ),
        {"a": ("conv", 8, 1, uses("a", reader="b"))},
        {"side": (7, "no layer reads it"), "b": OUT},
    ),
    # From here on something is in the way; the second half of each network stays prunable.
    "unknown operation": lambda: Case(
        Net(spectrum, a=Conv2d(3, 8, 1), b=nn.Sequential(Conv2d(8, 4, 1), Conv2d(4, 2, 1))),
        {"b.0": ("conv", 4, 1, uses("b.0", reader="b.1"))},
        {"a": (8, "_fft_r2c at @"), "b.1": OUT},
    ),
    "softmax over channels": lambda: Case(
        Net(over_channels, a=Conv2d(3, 8, 1), b=nn.Sequential(Conv2d(8, 4, 1), Conv2d(4, 2, 1))),
        {"b.0": ("conv", 4, 1, uses("b.0", reader="b.1"))},
        {"a": (8, "its channels are mixed by softmax at @"), "b.1": OUT},
    ),
    "layer norm": lambda: Case(
        nn.Sequential(Linear(6, 8), nn.LayerNorm(8), Linear(8, 4), Linear(4, 2)),
        {
            "0": ("linear", 8, 1, uses("0", "1", reader="2")),
            "2": ("linear", 4, 1, uses("2", reader="3")),
        },
        {"3": OUT},
        TOKENS,
    ),
    "group norm": lambda: Case(
        nn.Sequential(Conv2d(3, 12, 1), nn.GroupNorm(3, 12), Conv2d(12, 2, 1)),
        {"0": ("conv", 4, 3, uses("0", "1", reader="2"))},
        {"2": OUT},
    ),
    "rms norm": lambda: Case(
        nn.Sequential(Linear(6, 8), nn.RMSNorm(8), Linear(8, 2)),
        {"0": ("linear", 8, 1, uses("0", reader="2") | {"1.weight:0"})},
        {"2": OUT},
        TOKENS,
    ),
    "layer norm without a scale": lambda: Case(
        nn.Sequential(
            Linear(6, 8), nn.LayerNorm(8, elementwise_affine=False), Linear(8, 4), Linear(4, 2)
        ),
        {
            "0": ("linear", 8, 1, uses("0", reader="2") | {"1.normalized_shape.0:0"}),
            "2": ("linear", 4, 1, uses("2", reader="3")),
        },
        {"3": OUT},
        TOKENS,
    ),
    "gated linear unit": lambda: Case(
        nn.Sequential(Conv2d(3, 8, 1), nn.GLU(1), Conv2d(4, 2, 1)),
        {"0": ("conv", 4, 2, uses("0", reader="2"))},
        {"2": OUT},
    ),
    "embedding": lambda: Case(
        Net(
            lambda s, x: s.b(s.norm(s.a(x[..., 0].abs().long()) + s.place.weight)),
            a=nn.Embedding(11, 8),
            place=nn.Embedding(5, 8),
            norm=nn.LayerNorm(8),
            b=Linear(8, 2),
        ),
        {
            "a": (
                "embedding",
                8,
                1,
                {"a.weight:1", "place.weight:1", "norm.weight:0", "norm.bias:0", "b.weight:1"},
            )
        },
        {"b": OUT},
        TOKENS,
    ),
    "a stored matrix": lambda: Case(
        Net(
            lambda s, x: s.b(s.a(x) @ s.matrix),
            a=Linear(6, 8),
            matrix=nn.Parameter(torch.rand(8, 5)),
            b=Linear(5, 2),
        ),
        {
            "a": ("linear", 8, 1, {"a.weight:0", "a.bias:0", "matrix:0"}),
            "matrix": ("linear", 5, 1, {"matrix:1", "b.weight:1"}),
        },
        {"b": OUT},
        TOKENS,
    ),
    "a layer across positions": lambda: Case(
        Net(mixing_tokens, a=Linear(6, 8), norm=nn.LayerNorm(8), mix=Linear(5, 5), b=Linear(8, 2)),
        {"a": ("linear", 8, 1, uses("a", "norm", reader="b") | {"mix (1):0"})},
        {"b": OUT},
        TOKENS,
    ),
    "attention": lambda: Case(
        # Heads of 4: rows of q, k and v, a column of the bias table, the attribute, the products.
        Net(
            heads,
            qkv=Linear(6, 24),
            heads=2,
            bias=nn.Parameter(torch.rand(9, 2)),
            index=torch.arange(25).view(5, 5) % 9,
            o=Linear(8, 2),
        ),
        {
            "qkv": (
                "heads",
                2,
                12,
                uses("qkv", reader="o")
                | {"bias:1", "heads:0"}
                | {f"matmul at test_units.py:{line(heads) + n + 1} ({n}):0" for n in (1, 2)},
            )
        },
        {"o": OUT},
        TOKENS,
    ),
    "attention as wide as its input": lambda: Case(
        # The last reshape takes its width from the stream: a head goes with 4 of its channels.
        Net(as_wide, a=Linear(6, 8), qkv=Linear(8, 24), heads=2, o=Linear(8, 2)),
        {
            "a": (
                "heads",
                2,
                4,
                uses("a", "qkv", reader="o")
                | {"qkv.weight:1", "heads:0"}
                | {f"matmul at test_units.py:{line(as_wide) + n + 2} ({n}):0" for n in (2, 3)},
            )
        },
        {"o": OUT},
        TOKENS,
    ),
    "standardised weights with a gain": lambda: Case(
        Net(
            standardised,
            a=Conv2d(3, 8, 1),
            b=Conv2d(8, 6, 3),
            gain=nn.Parameter(torch.rand(6, 1, 1, 1)),
            c=Conv2d(6, 2, 1),
        ),
        {
            "a": ("conv", 8, 1, uses("a", reader="b")),
            "b": ("conv", 6, 1, uses("b", reader="c") | {"gain:0"}),
        },
        {"c": OUT},
    ),
    "fused attention": lambda: Case(
        Net(fused, q=Linear(6, 8), k=Linear(6, 8), v=Linear(6, 8), heads=2, o=Linear(8, 2)),
        {
            "q": (
                "heads",
                2,
                4,
                uses("q", "k", "v", reader="o")
                | {"heads:0"}
                | {f"scaled_dot_product_attention at test_units.py:{line(fused) + 2} (3):0"},
            )
        },
        {"o": OUT},
        TOKENS,
    ),
    "attention whose averaged weights nobody reads": lambda: Case(
        Net(
            lambda s, x: s.o(s.mha(y := s.a(x), y, y)[0]),
            a=Linear(6, 8),
            mha=nn.MultiheadAttention(8, 2, batch_first=True),
            o=Linear(8, 2),
        ),
        {
            "a": ("linear", 8, 1, {"a.weight:0", "a.bias:0", "mha.in_proj_weight:1"}),
            "mha": HEADS,
            "mha.out_proj": ("linear", 8, 1, uses("mha.out_proj", reader="o")),
        },
        {"o": OUT},
        TOKENS,
    ),
    "product of activations": lambda: Case(
        Net(
            attention,
            q=Linear(6, 8),
            k=Linear(6, 8),
            v=Linear(6, 8),
            o=nn.Sequential(Linear(8, 4), Linear(4, 2)),
        ),
        {"o.0": ("linear", 4, 1, uses("o.0", reader="o.1"))},
        {"q": (8, "its channels are mixed by matmul at @"), "o.1": OUT},
        TOKENS,
    ),
    "hard-coded reshape": lambda: Case(
        Net(hard_coded, a=Conv2d(3, 8, 3), b=nn.Sequential(Linear(288, 4), Linear(4, 2))),
        {"b.0": ("linear", 4, 1, uses("b.0", reader="b.1"))},
        {
            "a": (
                8,
                "the sliced network fails: shape '[2, 288]' is invalid for input of size "
                "216 (at @)",
            ),
            "b.1": OUT,
        },
    ),
    "write into a view": lambda: Case(
        Net(written, a=Conv2d(3, 8, 1), b=nn.Sequential(Conv2d(8, 4, 1), Conv2d(4, 2, 1))),
        {"b.0": ("conv", 4, 1, uses("b.0", reader="b.1"))},
        {
            "a": (8, "the sliced network fails: Given groups=1"),
            "b.1": OUT,
        },
    ),
    "shuffle into groups that change": lambda: Case(
        # c // groups depends on the width: channels meet other partners in the smaller network.
        Net(
            lambda s, x: s.b(shuffled(s.a(x), 4)),
            a=Conv2d(3, 16, 1),
            b=nn.Sequential(Conv2d(16, 8, 1, groups=4), Conv2d(8, 2, 1)),
        ),
        {"b.0": ("conv", 2, 4, uses("b.0", reader="b.1"))},
        {"a": (16, "b.0 differs from the masked twin's by"), "b.1": OUT},
    ),
}


@pytest.fixture(params=CASES)
def case(request) -> tuple[str, Case, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = CASES[request.param]()
    return (
        request.param,
        found,
        torch.randn(found.shape, generator=torch.Generator().manual_seed(1)),
    )


def test_units_and_frozen_channels_are_those_worked_out_by_hand(case):
    name, expected, x = case
    units = find_units(expected.model, x)
    assert [unit.name for unit in units] == list(expected.units)  # in forward order
    assert {
        unit.name: (
            unit.kind,
            unit.width,
            unit.granularity,
            {
                f"{slot.tensor}:{slot.dim}"
                for slot in unit.slots
                if not slot.tensor.startswith("bmm at ") and slot.purpose != "statistic"
            },
        )
        for unit in units
    } == expected.units
    assert {f.name: f.channels for f in units.frozen} == {
        key: channels for key, (channels, _) in expected.frozen.items()
    }
    for frozen in units.frozen:
        reason = expected.frozen[frozen.name][1]
        if "@" in reason:
            assert frozen.reason == reason.replace("@", line_marked(name))
        else:
            assert frozen.reason.startswith(reason)


def test_every_unit_and_random_plans_can_be_cut_at_the_stated_cost(case):
    _, expected, x = case
    units = find_units(expected.model, x)
    cost = CostTable(units)
    generator = np.random.default_rng(0)
    dense = np.array(units.dense_widths)
    alone = [np.where(np.arange(len(units)) == u, 1, dense) for u in range(len(units))]
    for widths in (*alone, *(generator.integers(1, dense + 1) for _ in range(3))):
        kept = widths.tolist()
        small = slice_model(expected.model, units, kept)
        assert verify(expected.model, small, units, kept, x) < 1e-5
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            small(x)
        assert cost.macs(kept) * 2 == counter.get_total_flops()
        assert cost.params(kept) == sum(p.numel() for p in small.parameters())


def chain(*widths: int) -> Units:
    convs = [Conv2d(a, b, 1, bias=False) for a, b in pairwise(widths)]
    return read_units(nn.Sequential(*convs), torch.ones(1, widths[0], 2, 2))


def test_units_of_one_producer_are_told_apart():
    model = Net(
        lambda s, x: s.c((h := s.a(x).split([2, 6], 1))[0]) + s.d(h[1]),
        a=Conv2d(3, 8, 1),
        c=Conv2d(2, 2, 1),
        d=Conv2d(6, 2, 1),
    )
    units = read_units(model, torch.ones(1, 3, 2, 2))
    assert [(unit.name, unit.width) for unit in units] == [("a", 2), ("a#2", 6)]


def test_channels_that_are_read_twice_are_another_unit_than_those_read_once():
    model = Net(
        lambda s, x: s.c(torch.cat([y := s.a(x), y[:, 1:4]], 1)),
        a=Conv2d(3, 8, 1),
        c=Conv2d(11, 2, 1),
    )
    once, twice = read_units(model, torch.ones(1, 3, 2, 2))
    assert [slot.index.tolist() for slot in once.slots if slot.purpose == "in"] == [
        [[0], [4], [5], [6], [7]]
    ]
    assert [slot.index.tolist() for slot in twice.slots if slot.purpose == "in"] == [
        [[1, 8], [2, 9], [3, 10]]
    ]


def test_ranking_orders_groups_and_kept_ones_come_in_place_order():
    units = chain(3, 4, 5, 2).ranked([np.array([1.0, 3.0, 3.0, 0.0]), np.arange(5.0)])
    assert units[0].order.tolist() == [1, 2, 0, 3]  # ties in place order
    assert [units[0].kept(k).tolist() for k in (1, 2, 3)] == [[1], [1, 2], [0, 1, 2]]
    assert units[1].kept(2).tolist() == [3, 4]


def test_a_sequence_of_units():
    units = chain(3, 4, 5, 2)
    assert len(units) == 2
    assert units[-1].name == "1"
    assert units[:1] == (units[0],)
    assert units.dense_widths == (4, 5)
    assert units.check(np.array([4, 1])) == (4, 1)
    assert [(f.name, f.reason) for f in units.without({"1": "why"}).frozen] == [
        ("2", "network output"),
        ("1", "why"),
    ]
