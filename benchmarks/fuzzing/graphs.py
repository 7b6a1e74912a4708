"""Graphs, codebooks, embeddings of time: more parts of networks of tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import Block, Draw, Shape, kind, width
from .live import Kept, Live, cat, merge


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
