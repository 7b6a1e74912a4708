"""Attention as it is written by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import Block, Draw, Shape, kind
from .live import Kept, Live


def heads_of(x: Live, heads: int, kept: Kept) -> Tensor:
    """(N, T, heads * d) to (N, heads left, T, d): whole heads are left, or none of one."""
    size = x.size // heads
    left = x.index.view(-1, size) if len(x.index) % size == 0 else x.index[None]
    expected = left[:, :1] // size * size + torch.arange(size)
    kept.agree(x.index, expected.flatten(), "heads")
    return x.values.view(*x.values.shape[:2], len(left), size).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """Softmax attention of (..., T, d) tensors."""
    scores = torch.einsum("...td,...sd->...ts", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("...ts,...sd->...td", (scores + bias).softmax(-1), v)


def joined(x: Tensor, like: Live) -> Live:
    """(N, heads, T, d) to (N, T, heads * d), with the channels of ``like``."""
    return Live(x.transpose(1, 2).flatten(2), like.index, like.size, -1)


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions: (..., T, d) with (T, d) tables."""
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos + turned * sin


@kind("tokens")
class Attention(Block):
    """Self-attention with packed or separate projections, in many spellings."""

    q: nn.Linear
    k: nn.Linear
    v: nn.Linear
    qkv: nn.Linear
    cos: Tensor
    sin: Tensor
    mask: Tensor

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.heads, self.d = draw.of(2, 3), draw.of(2, 4)
        self.inner = self.heads * self.d
        self.packed = draw.chance()
        names = ["qkv"] if self.packed else ["q", "k", "v"]
        bias = draw.chance()
        for name in names:
            setattr(self, name, nn.Linear(shape.channels, len(names[0]) * self.inner, bias=bias))
        self.proj = nn.Linear(self.inner, shape.channels)
        self.scale = self.d**-0.5
        self.style = draw.of("view", "reshape", "unflatten", "chunk", "infer", "split")
        self.product = draw.of("matmul", "sdpa", "einsum", "bmm", "baddbmm")
        self.extra = draw.of("", "", "bias", "rotary", "causal", "talking", "temperature", "norm")
        tokens = shape.sides[0]
        if self.extra == "bias":
            self.bias = nn.Parameter(torch.randn(self.heads, tokens, tokens))
        elif self.extra == "rotary":
            angles = torch.arange(tokens)[:, None] * torch.rand(self.d // 2).repeat(2)
            self.register_buffer("cos", angles.cos())
            self.register_buffer("sin", angles.sin())
        elif self.extra == "causal":
            self.register_buffer("mask", torch.full((tokens, tokens), -1e9).triu(1))
        elif self.extra == "talking":
            self.product = "matmul"
            self.talk = nn.Linear(self.heads, self.heads)
        elif self.extra == "temperature":
            self.temperature = nn.Parameter(torch.ones(self.heads, 1, 1))
        elif self.extra == "norm":
            self.norm = nn.LayerNorm(self.d)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, heads, T, d) queries, keys and values."""
        b, t, _ = x.shape
        if not self.packed:
            parts = [self.q(x), self.k(x), self.v(x)]
        else:
            y = self.qkv(x)
            if self.style in ("view", "reshape"):
                y = y.reshape(b, t, 3, self.heads, self.d).permute(2, 0, 3, 1, 4)
                return y[0], y[1], y[2]
            if self.style == "infer":
                y = y.view(b, t, 3, -1, self.d).permute(2, 0, 3, 1, 4)
                q, k, v = y.unbind(0)
                return q, k, v
            parts = list(y.split(self.inner, -1) if self.style == "split" else y.chunk(3, dim=-1))
        if self.style == "view":
            parts = [p.view(b, t, self.heads, self.d) for p in parts]
        elif self.style == "unflatten":
            parts = [p.unflatten(-1, (self.heads, self.d)) for p in parts]
        elif self.style == "infer":
            parts = [p.view(b, -1, self.heads, self.d) for p in parts]
        else:
            parts = [p.reshape(b, t, self.heads, -1) for p in parts]
        q, k, v = (p.transpose(1, 2) for p in parts)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.project(x)
        bias: Tensor | None = None
        if self.extra == "rotary":
            q, k = rotated(q, self.cos, self.sin), rotated(k, self.cos, self.sin)
        elif self.extra == "norm":
            q, k = self.norm(q), self.norm(k)
        elif self.extra == "temperature":
            q = q * self.temperature
        elif self.extra == "bias":
            bias = self.bias
        elif self.extra == "causal":
            bias = self.mask[:t, :t]
        if self.product == "sdpa":
            mask = None if bias is None else bias.to(q.dtype)
            y = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        elif self.product == "einsum":
            scores = torch.einsum("bhtd,bhsd->bhts", q, k) * self.scale
            scores = (scores if bias is None else scores + bias).softmax(-1)
            y = torch.einsum("bhts,bhsd->bhtd", scores, v)
        elif self.product in ("bmm", "baddbmm") and bias is None:
            q, k, v = (p.reshape(b * self.heads, t, self.d) for p in (q, k, v))
            if self.product == "bmm":
                scores = torch.bmm(q * self.scale, k.transpose(1, 2))
            else:
                base = torch.zeros(b * self.heads, t, t, dtype=x.dtype, device=x.device)
                scores = torch.baddbmm(base, q, k.mT, beta=0, alpha=self.scale)
            y = torch.bmm(scores.softmax(-1), v).view(b, self.heads, t, self.d)
        else:
            scores = (q @ k.transpose(-2, -1)) * self.scale
            if self.extra == "talking":
                scores = self.talk(scores.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            scores = (scores if bias is None else scores + bias).softmax(dim=-1)
            y = scores @ v
        y = y.transpose(1, 2)
        y = y.flatten(2) if self.style == "unflatten" else y.reshape(b, t, self.inner)
        return self.proj(y)

    def reference(self, x: Live, kept: Kept) -> Live:
        if self.packed:
            parts = kept.apply(self.qkv, x).chunk(3)
        else:
            parts = [kept.apply(layer, x) for layer in (self.q, self.k, self.v)]
        for part in parts:
            kept.agree(part.index, parts[0].index, "queries, keys, values")
        q, k, v = (heads_of(part, self.heads, kept) for part in parts)
        left = parts[0].index.view(-1, self.d)[:, 0] // self.d
        bias: Tensor | float = 0.0
        if self.extra == "rotary":
            q, k = rotated(q, self.cos, self.sin), rotated(k, self.cos, self.sin)
        elif self.extra == "norm":
            q, k = self.norm(q), self.norm(k)
        elif self.extra == "temperature":
            kept.agree(left, kept.of(self.temperature, 0), "temperature")
            q = q * kept.cut(self.temperature)
        elif self.extra == "bias":
            kept.agree(left, kept.of(self.bias, 0), "bias")
            bias = kept.cut(self.bias)
        elif self.extra == "causal":
            bias = self.mask
        if self.extra == "talking":
            for dim in (0, 1):
                kept.agree(left, kept.of(self.talk.weight, dim), "talking heads")
            scores = torch.einsum("nhtd,nhsd->nhts", q, k) * self.d**-0.5
            scores = torch.einsum("gh,nhts->ngts", kept.cut(self.talk.weight), scores)
            scores = scores + kept.cut(self.talk.bias)[:, None, None]
            y = scores.softmax(-1) @ v
        else:
            y = attend(q, k, v, bias)
        return kept.apply(self.proj, joined(y, parts[0]))
