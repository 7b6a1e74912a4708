"""Parts of transformers, as their papers' code writes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import attend, heads_of, joined
from .blocks import Block, Draw, Shape, kind
from .layers import standard
from .live import Kept, Live, add, merge


@kind("tokens")
class AdaptiveNorm(Block):
    """DiT: scales and shifts from a condition and a table, in three spellings."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        c = shape.channels
        super().__init__(shape)
        self.norm = nn.LayerNorm(c, elementwise_affine=False)
        self.condition = nn.Linear(c, 3 * c)
        self.table = nn.Parameter(torch.randn(3, c) * 0.5)
        self.layer = nn.Linear(c, c)
        self.style = draw.of("table", "chunk", "unbind")

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        y = self.condition(functional.silu(x.mean(1)))
        if self.style == "table":
            shift, scale, gate = (self.table[None] + y.reshape(b, 3, -1)).chunk(3, dim=1)
        elif self.style == "chunk":
            shift, scale, gate = (part.unsqueeze(1) for part in y.chunk(3, dim=1))
        else:
            shift, scale, gate = y.view(b, 3, 1, x.shape[-1]).unbind(1)
        z = self.norm(x) * (1 + scale) + shift
        return x + gate * self.layer(z)

    def reference(self, x: Live, kept: Kept) -> Live:
        mean = x.map(lambda v: functional.silu(v.mean(1)))
        parts = [p.map(lambda v: v[:, None]) for p in kept.apply(self.condition, mean).chunk(3)]
        if self.style == "table":
            table = kept.meet(x, self.table, 1)
            kept.agree(kept.of(self.table, 0), torch.arange(3), "table")
            rows = [Live(row, x.index, x.size, -1) for row in table[:, None, None]]
            parts = [add(part, row) for part, row in zip(parts, rows, strict=True)]
        shift, scale, gate = parts
        z = merge(lambda v, s, t: v * (1 + s) + t, standard(x, [-1], 1e-5), scale, shift)
        return merge(lambda v, g, w: v + g * w, x, gate, kept.apply(self.layer, z))


@kind("tokens")
class RelativeTable(Block):
    """Swin's bias: a table (distances, heads) looked up by a buffer of indices."""

    index: Tensor

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.num_heads, self.d = draw.of(2, 3), 2
        n = shape.sides[0]
        self.qkv = nn.Linear(shape.channels, 3 * self.num_heads * self.d)
        self.table = nn.Parameter(torch.randn(2 * n - 1, self.num_heads))
        self.register_buffer("index", torch.arange(n)[:, None] - torch.arange(n) + n - 1)
        self.scale = nn.Parameter(torch.ones(self.num_heads, 1, 1))
        self.proj = nn.Linear(self.num_heads * self.d, shape.channels)
        self.cosine = draw.chance()
        self.slopes = draw.chance(0.3)
        self.flat = draw.chance()

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        if self.cosine:  # Swin V2
            q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
            scores = q @ k.transpose(-2, -1) * self.scale.clamp(max=2.0).exp()
        else:
            scores = q * self.d**-0.5 @ k.transpose(-2, -1)
        if self.slopes:  # ALiBi
            slopes = 2.0 ** -torch.arange(1, self.num_heads + 1, dtype=x.dtype)
            scores = scores + slopes.view(-1, 1, 1) * self.index
        elif self.flat:
            bias = self.table[self.index.view(-1)].view(n, n, -1).permute(2, 0, 1).contiguous()
            scores = scores + bias.unsqueeze(0)
        else:
            scores = scores + self.table[self.index].movedim(-1, 0)
        y = scores.softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(b, n, self.num_heads * self.d))

    def reference(self, x: Live, kept: Kept) -> Live:
        parts = kept.apply(self.qkv, x).chunk(3)
        for part in parts:
            kept.agree(part.index, parts[0].index, "queries, keys, values")
        q, k, v = (heads_of(part, self.num_heads, kept) for part in parts)
        left = parts[0].index.view(-1, self.d)[:, 0] // self.d
        if self.slopes:
            slopes = 2.0 ** -(left + 1).to(x.values.dtype)
            bias = slopes.view(-1, 1, 1) * self.index
        else:
            kept.agree(left, kept.of(self.table, 1), "table")
            bias = kept.cut(self.table)[self.index].movedim(-1, 0)
        if self.cosine:
            kept.agree(left, kept.of(self.scale, 0), "scale")
            factor = kept.cut(self.scale).clamp(max=2.0).exp() * self.d**0.5
            q = q / q.norm(dim=-1, keepdim=True) * factor
            k = k / k.norm(dim=-1, keepdim=True)
        return kept.apply(self.proj, joined(attend(q, k, v, bias), parts[0]))


@kind("tokens")
class Memory(Block):
    """Learned keys and values beside those of the tokens, or learned queries."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.heads, self.d = 2, 2
        inner = self.heads * self.d
        self.style = draw.of("pairs", "prefix", "queries")
        count = 3 if self.style == "queries" else shape.sides[0]
        super().__init__(Shape("tokens", shape.channels, (count,)))
        self.q, self.kv = nn.Linear(shape.channels, inner), nn.Linear(shape.channels, 2 * inner)
        self.proj = nn.Linear(inner, shape.channels)
        self.keys = nn.Parameter(torch.randn(1, self.heads, 2, self.d))
        self.values = nn.Parameter(torch.randn(1, self.heads, 2, self.d))
        self.prefix = nn.Parameter(torch.randn(2, shape.channels))
        self.queries = nn.Parameter(torch.randn(3, shape.channels))

    def split(self, x: Tensor) -> Tensor:
        """(N, T, heads * d) to (N, heads, T, d)."""
        return x.view(x.shape[0], -1, self.heads, self.d).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        b = x.shape[0]
        asked = x
        if self.style == "queries":
            asked = self.queries.unsqueeze(0).repeat(b, 1, 1)
        elif self.style == "prefix":
            x = torch.cat([self.prefix.expand(b, -1, -1), x], dim=1)
        k, v = self.kv(x).chunk(2, dim=-1)
        q, k, v = self.split(self.q(asked)), self.split(k), self.split(v)
        if self.style == "pairs":
            k = torch.cat([k, self.keys.expand(b, -1, -1, -1)], dim=2)
            v = torch.cat([v, self.values.expand(b, -1, -1, -1)], dim=2)
        y = functional.scaled_dot_product_attention(q, k, v)
        return asked + self.proj(y.transpose(1, 2).flatten(2))

    def reference(self, x: Live, kept: Kept) -> Live:
        asked = x
        if self.style == "queries":
            index = kept.of(self.queries, 1)
            values = kept.cut(self.queries).expand(len(x.values), -1, -1)
            asked = Live(values, index, x.size, -1)
        elif self.style == "prefix":
            prefix = kept.meet(x, self.prefix, 1).expand(len(x.values), -1, -1)
            x = x.map(lambda v: torch.cat([prefix, v], 1))
        q = kept.apply(self.q, asked)
        keys, values_ = kept.apply(self.kv, x).chunk(2)
        for part in (keys, values_):
            kept.agree(part.index, q.index, "queries, keys, values")
        qs, ks, vs = (heads_of(part, self.heads, kept) for part in (q, keys, values_))
        if self.style == "pairs":
            left = q.index.view(-1, self.d)[:, 0] // self.d
            for tensor in (self.keys, self.values):
                kept.agree(left, kept.of(tensor, 1), "memory")
            more = [kept.cut(t).expand(len(qs), -1, -1, -1) for t in (self.keys, self.values)]
            ks, vs = (torch.cat(pair, 2) for pair in zip((ks, vs), more, strict=True))
        return add(asked, kept.apply(self.proj, joined(attend(qs, ks, vs), q)))


@kind("tokens")
class LinearAttention(Block):
    """Attention without a softmax, by einsum, with a normaliser."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.heads, self.d = 2, draw.of(2, 3)
        inner = self.heads * self.d
        self.q, self.k, self.v = (nn.Linear(shape.channels, inner) for _ in "qkv")
        self.proj = nn.Linear(inner, shape.channels)
        self.style = draw.of("einsum", "matmul")

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q, k, v = (f(x).view(b, n, self.heads, self.d) for f in (self.q, self.k, self.v))
        q, k = functional.elu(q) + 1, functional.elu(k) + 1
        if self.style == "einsum":
            kv = torch.einsum("nshd,nshm->nhmd", k, v)
            z = 1 / (torch.einsum("nlhd,nhd->nlh", q, k.sum(dim=1)) + 1e-6)
            y = torch.einsum("nlhd,nhmd,nlh->nlhm", q, kv, z)
        else:
            q, k, v = (t.transpose(1, 2) for t in (q, k, v))
            y = q @ (k.mT @ v) / ((q * k.sum(2, keepdim=True)).sum(-1, keepdim=True) + 1e-6)
            y = y.transpose(1, 2)
        return self.proj(y.reshape(b, n, self.heads * self.d))

    def reference(self, x: Live, kept: Kept) -> Live:
        parts = [kept.apply(f, x) for f in (self.q, self.k, self.v)]
        for part in parts:
            kept.agree(part.index, parts[0].index, "queries, keys, values")
        q, k, v = (heads_of(part, self.heads, kept) for part in parts)
        q, k = functional.elu(q) + 1, functional.elu(k) + 1
        scores = q @ k.mT
        y = scores @ v / (scores.sum(-1, keepdim=True) + 1e-6)
        return kept.apply(self.proj, joined(y, parts[0]))
