"""Parts of transformers, as their papers' code writes them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import attend, heads_of, joined
from .blocks import Block, Draw, Shape, kind, width
from .layers import standard
from .live import Kept, Live, add, cat, merge


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
            parts = [p.map(lambda v, n=n: v + table[n]) for n, p in enumerate(parts)]
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


@kind("tokens")
class Edges(Block):
    """Graphs: differences of neighbours side by side (DGCNN), a fixed adjacency, attention."""

    adjacency: Tensor

    def __init__(self, draw: Draw, shape: Shape) -> None:
        out = width(draw)
        super().__init__(shape.of(out))
        n = shape.sides[0]
        self.style = draw.of("edges", "adjacency", "learned", "gat")
        self.layer = nn.Linear((2 if self.style == "edges" else 1) * shape.channels, out)
        self.register_buffer("adjacency", torch.rand(n, n).softmax(-1))
        self.learned = nn.Parameter(torch.randn(n, n))
        self.left, self.right = nn.Linear(out, 1), nn.Linear(out, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "edges":
            there = torch.roll(x, 1, dims=1)
            pairs = torch.stack([torch.cat([x, t - x], -1) for t in (there, x.flip(1))], 2)
            return functional.leaky_relu(self.layer(pairs)).amax(dim=2)
        y = self.layer(x)
        if self.style == "adjacency":
            return functional.relu(self.adjacency @ y)
        if self.style == "learned":
            return torch.einsum("ts,nsc->ntc", self.learned.softmax(-1), y)
        scores = functional.leaky_relu(self.left(y) + self.right(y).transpose(1, 2), 0.2)
        return torch.bmm(scores.softmax(-1), y)

    def reference(self, x: Live, kept: Kept) -> Live:
        if self.style == "edges":
            made = []
            for there in (x.map(lambda v: v.roll(1, 1)), x.map(lambda v: v.flip(1))):
                pair = cat([x, merge(torch.sub, there, x)])
                made.append(kept.apply(self.layer, pair).map(functional.leaky_relu))
            return merge(torch.maximum, *made)
        y = kept.apply(self.layer, x)
        if self.style == "gat":
            left, right = (kept.apply(f, y).whole() for f in (self.left, self.right))
            scores = functional.leaky_relu(left + right.mT, 0.2).softmax(-1)
            return y.map(lambda v: scores @ v)
        mix = self.adjacency if self.style == "adjacency" else self.learned.softmax(-1)
        mixed = y.map(lambda v: torch.einsum("ts,nsc->ntc", mix, v))
        return mixed.map(torch.relu) if self.style == "adjacency" else mixed


@kind("tokens")
class Codebook(Block):
    """Tokens looked up in a table softly, masked ones replaced, or tied to an embedding."""

    mask: Tensor

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.table = nn.Embedding(5, shape.channels)
        self.token = nn.Parameter(torch.randn(shape.channels))
        mask = torch.arange(shape.sides[0]) % 2 == 0
        self.register_buffer("mask", mask)
        self.style = draw.of("soft", "where", "fill", "distance", "times")

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "soft":  # tied to the embedding
            return functional.linear(x, self.table.weight).softmax(-1) @ self.table.weight
        if self.style == "distance":
            near = -(x.unsqueeze(2) - self.table.weight).square().sum(-1)
            return x + near.softmax(-1) @ self.table.weight
        if self.style == "where":
            return torch.where(self.mask[:, None], x, self.token)
        if self.style == "fill":
            return x.masked_fill(self.mask[None, :, None], 0.5)
        keep = self.mask.to(x.dtype)[:, None]
        return x * keep + self.token * (1 - keep)

    def reference(self, x: Live, kept: Kept) -> Live:
        keep = self.mask[:, None]
        if self.style == "fill":
            return x.map(lambda v: torch.where(keep, torch.full_like(v, 0.5), v))
        if self.style in ("where", "times"):
            token = kept.meet(x, self.token, 0)
            return x.map(lambda v: torch.where(keep, v, token))
        table = kept.meet(x, self.table.weight, 1)
        kept.agree(kept.of(self.table.weight, 0), torch.arange(5), "rows of a table")
        if self.style == "soft":
            return x.map(lambda v: (v @ table.T).softmax(-1) @ table)
        return x.map(lambda v: v + (-(v.unsqueeze(2) - table).square().sum(-1)).softmax(-1) @ table)


@kind("tokens")
class TimeEmbedding(Block):
    """Sines of a fixed number of frequencies, projected and added; or a causal running mean."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.dim = draw.of(4, 6)
        self.mlp = nn.Sequential(nn.Linear(self.dim, 6), nn.SiLU(), nn.Linear(6, shape.channels))
        self.style = draw.of("add", "mean", "sort", "diff")

    def waves(self, x: Tensor) -> Tensor:
        """(T, dim) fixed sines and cosines."""
        half = self.dim // 2
        rates = torch.exp(-torch.arange(half, dtype=x.dtype))
        angles = torch.arange(x.shape[1], dtype=x.dtype)[:, None] * rates[None, :]
        return torch.cat([angles.sin(), angles.cos()], dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "mean":
            steps = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)
            return x + x.cumsum(1) / steps[:, None]
        if self.style == "sort":
            return x.sort(dim=1)[0] + x.median(1, keepdim=True)[0]
        if self.style == "diff":
            return functional.pad(x[:, 1:] - x[:, :-1], (0, 0, 1, 0)) + x
        return x + self.mlp(self.waves(x))

    def reference(self, x: Live, kept: Kept) -> Live:
        if self.style != "add":
            return x.map(self)
        waves = self.waves(x.values)
        entered = Live(waves, torch.arange(self.dim), self.dim, -1)
        return merge(torch.add, x, kept.apply(self.mlp, entered))
