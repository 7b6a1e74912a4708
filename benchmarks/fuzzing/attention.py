"""Attention as it is written by hand, and PyTorch's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import Block, Draw, Shape, image, kind
from .live import Kept, Live, MismatchError, add


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


@kind("tokens")
class GroupedQueries(Block):
    """Fewer heads of keys and values than of queries, repeated in four ways."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.groups = draw.of(1, 2)
        self.many = 2
        self.heads, self.d = self.groups * self.many, 2
        self.q = nn.Linear(shape.channels, self.heads * self.d)
        self.kv = nn.Linear(shape.channels, 2 * self.groups * self.d)
        self.proj = nn.Linear(self.heads * self.d, shape.channels)
        self.style = draw.of("repeat_interleave", "expand", "enable_gqa", "view")

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, self.heads, self.d).transpose(1, 2)
        k, v = self.kv(x).view(b, t, 2, self.groups, self.d).permute(2, 0, 3, 1, 4)
        if self.style == "repeat_interleave":
            k, v = (p.repeat_interleave(self.many, dim=1) for p in (k, v))
        elif self.style == "expand":
            k, v = (
                p[:, :, None].expand(b, self.groups, self.many, t, self.d).reshape(q.shape)
                for p in (k, v)
            )
        elif self.style == "view":
            q = q.reshape(b, self.groups, self.many, t, self.d)
            y = (q @ k[:, :, None].mT * self.d**-0.5).softmax(-1) @ v[:, :, None]
            return self.proj(y.flatten(1, 2).transpose(1, 2).reshape(b, t, -1))
        grouped = self.style == "enable_gqa"
        y = functional.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
        return self.proj(y.transpose(1, 2).reshape(b, t, -1))

    def reference(self, x: Live, kept: Kept) -> Live:
        q = kept.apply(self.q, x)
        keys, values = kept.apply(self.kv, x).chunk(2)
        kept.agree(keys.index, values.index, "keys and values")
        queries = heads_of(q, self.heads, kept)
        k, v = heads_of(keys, self.groups, kept), heads_of(values, self.groups, kept)
        left = q.index.view(-1, self.d)[:, 0] // self.d
        stored = (keys.index.view(-1, self.d)[:, 0] // self.d).tolist()
        if {int(h) // self.many for h in left} != set(stored):
            raise MismatchError("a group of queries has no keys, or keys nobody asks")
        if len(left) % len(stored):
            raise MismatchError("groups of queries are left unequal")
        own = torch.tensor([stored.index(int(h) // self.many) for h in left])
        return kept.apply(self.proj, joined(attend(queries, k[:, own], v[:, own]), q))


@kind("tokens")
class Multihead(Block):
    """nn.MultiheadAttention, in a residual with a norm, or a whole encoder layer."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.enter = nn.Linear(shape.channels, 8)
        self.norm = nn.LayerNorm(8)
        self.heads = draw.of(2, 4)
        self.attention = nn.MultiheadAttention(8, self.heads, batch_first=True, bias=draw.chance())
        self.weights = draw.chance()
        self.leave = nn.Linear(8, shape.channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        y = self.norm(x)
        y, _ = self.attention(y, y, y, need_weights=self.weights)
        return self.leave(x + y)

    def reference(self, x: Live, kept: Kept) -> Live:
        x = kept.apply(self.enter, x)
        y = kept.apply(self.norm, x)
        packed = self.attention.in_proj_weight
        made = y.values @ kept.meet(y, packed, 1).mT
        produced = kept.of(packed, 0)
        if self.attention.in_proj_bias is not None:
            kept.agree(produced, kept.of(self.attention.in_proj_bias, 0), "in_proj_bias")
            made = made + kept.cut(self.attention.in_proj_bias)
        parts = Live(made, produced, 24, -1).chunk(3)
        for part in parts:
            kept.agree(part.index, parts[0].index, "queries, keys, values")
        q, k, v = (heads_of(part, self.heads, kept) for part in parts)
        y = kept.apply(self.attention.out_proj, joined(attend(q, k, v), parts[0]))
        return kept.apply(self.leave, add(x, y))


@kind("tokens")
class Mixer(Block):
    """A linear layer over tokens, or gMLP's gate of tokens."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.hidden = draw.of(4, 6)
        self.gate = draw.chance()
        self.enter = nn.Linear(shape.channels, 2 * self.hidden if self.gate else self.hidden)
        self.tokens = nn.Linear(shape.sides[0], shape.sides[0])
        self.leave = nn.Linear(self.hidden, shape.channels)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.gelu(self.enter(x))
        if self.gate:
            u, v = y.chunk(2, -1)
            y = u * self.tokens(v.transpose(1, 2)).transpose(1, 2)
        else:
            y = self.tokens(y.mT).mT
        return x + self.leave(y)

    def reference(self, x: Live, kept: Kept) -> Live:
        y = kept.apply(self.enter, x).map(functional.gelu)

        def over_tokens(v: Tensor) -> Tensor:
            mixed = torch.einsum("ntc,st->nsc", v, self.tokens.weight)
            return mixed + self.tokens.bias[:, None]

        if self.gate:
            u, v = y.chunk(2)
            kept.agree(u.index, v.index, "gate")
            y = u.map(lambda values: values * over_tokens(v.values))
        else:
            y = y.map(over_tokens)
        return add(x, kept.apply(self.leave, y))


@kind("map", fits=image)
class NonLocal(Block):
    """Attention between positions of a map, or linear attention with heads."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.inner = draw.of(4, 6)
        self.heads = 2
        self.query = nn.Conv2d(shape.channels, self.inner, 1)
        self.key = nn.Conv2d(shape.channels, self.inner, 1)
        self.value = nn.Conv2d(shape.channels, self.inner, 1)
        self.leave = nn.Conv2d(self.inner, shape.channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.linear = draw.chance()

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.size()
        if self.linear:
            shape = (b * self.heads, self.inner // self.heads, h * w)
            q, k, v = (f(x).reshape(shape) for f in (self.query, self.key, self.value))
            context = torch.bmm(k.softmax(-1), v.mT)
            y = torch.bmm(context.mT, q.softmax(1)).view(b, self.inner, h, w)
        else:
            q = self.query(x).view(b, -1, h * w).permute(0, 2, 1)
            scores = torch.bmm(q, self.key(x).view(b, -1, h * w)).softmax(-1)
            y = torch.bmm(self.value(x).flatten(2), scores.permute(0, 2, 1)).view(b, -1, h, w)
        return self.gamma * self.leave(y) + x

    def reference(self, x: Live, kept: Kept) -> Live:
        parts = [kept.apply(f, x) for f in (self.query, self.key, self.value)]
        q, k, v = (part.map(lambda t: t.flatten(2).mT, -1) for part in parts)
        sides = x.values.shape[2:]
        if self.linear:
            kept.agree(q.index, k.index, "queries and keys")
            qs, ks, vs = (heads_of(part, self.heads, kept) for part in (q, k, v))
            context = torch.einsum("nhtd,nhte->nhde", ks.softmax(-2), vs)
            y = joined(torch.einsum("nhde,nhtd->nhte", context, qs.softmax(-1)), v)
        else:
            kept.agree(q.index, k.index, "queries and keys")
            scores = torch.einsum("ntd,nsd->nts", q.values, k.values).softmax(-1)
            y = v.map(lambda t: scores @ t)
        y = y.map(lambda t: t.mT.unflatten(-1, sides), 1)
        return add(kept.apply(self.leave, y).map(lambda t: self.gamma * t), x)


@kind("tokens")
class Recurrent(Block):
    """PyTorch's GRU, LSTM and RNN."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        hidden = draw.of(4, 6)
        both = draw.chance(0.3)
        super().__init__(shape.of(hidden * (2 if both else 1)))
        make = draw.of(nn.GRU, nn.LSTM, nn.RNN)
        self.layer = make(shape.channels, hidden, batch_first=True, bidirectional=both)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.layer(x)
        return y

    def reference(self, x: Live, kept: Kept) -> Live:
        for parameter in self.layer.parameters():
            for dim in range(parameter.dim()):
                kept.agree(kept.of(parameter, dim), torch.arange(parameter.shape[dim]), "RNN")
        y = self.layer(x.whole())[0]
        return Live(y, torch.arange(y.shape[-1]), y.shape[-1], -1)
