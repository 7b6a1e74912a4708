"""From maps to tokens and vectors, and back."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import Block, Draw, Shape, image, kind, rank_is, width
from .live import Kept, Live


@kind("map", fits=rank_is(1, 2), keeps=False)
class ToTokens(Block):
    """A map's positions become tokens."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(Shape("tokens", shape.channels, (prod(shape.sides),)))
        self.channels = shape.channels
        self.style = draw.of("flatten", "view", "permute", "einsum")

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "flatten":
            return x.flatten(2).transpose(1, 2)
        if self.style == "view":
            return x.view(x.size(0), self.channels, -1).permute(0, 2, 1)
        if self.style == "einsum":
            return torch.einsum("nct->ntc", x.flatten(2))
        return x.movedim(1, -1).reshape(x.shape[0], -1, x.shape[1])

    def reference(self, x: Live, kept: Kept) -> Live:
        return x.map(lambda v: v.flatten(2).mT, -1)


@kind("tokens", keeps=False)
class ToSequence(Block):
    """Tokens become a map of rank 1 or 2."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        length = shape.sides[0]
        side = next(s for s in range(int(length**0.5), 0, -1) if length % s == 0)
        self.sides = (side, length // side) if draw.chance() and side > 1 else (length,)
        super().__init__(Shape("map", shape.channels, self.sides))
        self.c = shape.channels

    def forward(self, x: Tensor) -> Tensor:
        if len(self.sides) == 1:
            return x.permute(0, 2, 1).contiguous()
        return x.transpose(1, 2).reshape(x.shape[0], self.c, *self.sides)

    def reference(self, x: Live, kept: Kept) -> Live:
        return x.map(lambda v: v.mT.unflatten(-1, self.sides), 1)


@kind("map", keeps=False)
class GlobalPool(Block):
    """The mean or largest value of each channel, or both side by side."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.style = draw.of("mean", "adaptive", "both", "view", "gem")
        super().__init__(Shape("vector", shape.channels * (2 if self.style == "both" else 1)))
        self.pool = getattr(nn, f"AdaptiveAvgPool{shape.rank}d")(1)
        self.channels = shape.channels
        self.power = nn.Parameter(torch.ones(1) * 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "adaptive":
            return torch.flatten(self.pool(x), 1)
        flat = x.flatten(2)
        if self.style == "both":
            return torch.cat((flat.mean(2), flat.amax(2)), 1)
        if self.style == "view":
            return self.pool(x).view(-1, self.channels)
        if self.style == "gem":
            return flat.clamp(min=1e-2).pow(self.power).mean(-1).pow(1 / self.power)
        return flat.mean(-1)

    def reference(self, x: Live, kept: Kept) -> Live:
        flat = x.map(lambda v: v.flatten(2))
        if self.style == "both":
            index = torch.cat((x.index, x.index + x.size))
            values = torch.cat((flat.values.mean(2), flat.values.amax(2)), 1)
            return Live(values, index, 2 * x.size, -1)
        if self.style == "gem":
            p = self.power
            return flat.map(lambda v: v.clamp(min=1e-2).pow(p).mean(-1).pow(1 / p), -1)
        return flat.map(lambda v: v.mean(-1), -1)


@kind("tokens", keeps=False)
class TokenPool(Block):
    """A vector from tokens: their mean, the first, or attention by a learned query."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(Shape("vector", shape.channels))
        self.style = draw.of("mean", "first", "query", "class")
        self.query = nn.Parameter(torch.randn(shape.channels))
        self.score = nn.Linear(shape.channels, 1)
        self.token = nn.Parameter(torch.randn(1, 1, shape.channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "mean":
            return x.mean(dim=1)
        if self.style == "first":
            return x[:, 0]
        if self.style == "class":
            x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), dim=1)
            return x[:, 0] * 0.5 + x.amax(1)
        weights = self.score(torch.tanh(x * self.query)).softmax(1)
        return (weights * x).sum(1)

    def reference(self, x: Live, kept: Kept) -> Live:
        if self.style == "mean":
            return x.map(lambda v: v.mean(1))
        if self.style == "first":
            return x.map(lambda v: v[:, 0])
        if self.style == "class":
            token = kept.meet(x, self.token, 2)[:, 0]
            return x.map(lambda v: token * 0.5 + torch.maximum(v.amax(1), token))
        query = kept.meet(x, self.query, 0)
        weights = kept.apply(self.score, x.map(lambda v: (v * query).tanh())).values.softmax(1)
        return x.map(lambda v: (weights * v).sum(1))


@kind("map", fits=lambda s: prod(s.sides) <= 16, keeps=False)
class FlattenLinear(Block):
    """Each channel's positions side by side, read by one linear layer."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.area = prod(shape.sides)
        self.features = shape.channels * self.area
        out = width(draw)
        super().__init__(Shape("vector", out))
        self.linear = nn.Linear(self.features, out)
        self.style = draw.of("flatten", "view", "reshape", "last")

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "flatten":
            return self.linear(torch.flatten(x, 1))
        if self.style == "view":
            return self.linear(x.reshape(-1, self.features))
        if self.style == "last":  # positions first
            return self.linear(x.movedim(1, -1).flatten(1))
        return self.linear(x.reshape(x.size(0), -1))

    def reference(self, x: Live, kept: Kept) -> Live:
        steps = torch.arange(self.area)
        if self.style == "last":
            places = (steps[:, None] * x.size + x.index).flatten()
            flat = x.map(lambda v: v.movedim(1, -1).flatten(1), -1)
        else:
            places = (x.index[:, None] * self.area + steps).flatten()
            flat = x.map(lambda v: v.flatten(1), -1)
        return kept.apply(self.linear, Live(flat.values, places, self.features, -1))


@kind("vector", fits=lambda s: s.channels <= 12, keeps=False)
class ToMap(Block):
    """A linear layer whose outputs become the channels and positions of a map."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.c = draw.of(4, 6)
        super().__init__(Shape("map", self.c, (3, 3)))
        self.linear = nn.Linear(shape.channels, self.c * 9)
        self.infer = draw.chance()

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y.view(-1, self.c, 3, 3) if not self.infer else y.view(y.shape[0], -1, 3, 3)

    def reference(self, x: Live, kept: Kept) -> Live:
        y = kept.apply(self.linear, x)
        whole = y.index.view(-1, 9) if len(y.index) % 9 == 0 else y.index[None]
        kept.agree(y.index, (whole[:, :1] // 9 * 9 + torch.arange(9)).flatten(), "maps")
        return Live(y.values.view(-1, len(whole), 3, 3), whole[:, 0] // 9, self.c, 1)


@kind("map", fits=lambda s: image(s) and min(s.sides) >= 4, keeps=False)
class Patches(Block):
    """F.unfold and a linear layer over the patches; or windows by reshape and permute."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        out = width(draw)
        self.rows, self.columns = (s // 2 for s in shape.sides)
        super().__init__(Shape("tokens", out, (self.rows * self.columns,)))
        self.linear = nn.Linear(shape.channels * 4, out)
        self.style = draw.of("unfold", "reshape", "merge")
        self.c = shape.channels

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, :, : 2 * self.rows, : 2 * self.columns]
        if self.style == "unfold":
            y = functional.unfold(x, 2, stride=2).transpose(1, 2)
        elif self.style == "reshape":
            b, c = x.shape[:2]
            y = x.reshape(b, c, self.rows, 2, self.columns, 2).permute(0, 2, 4, 1, 3, 5)
            y = y.reshape(b, self.rows * self.columns, c * 4)
        else:  # Swin's patch merging
            z = x.permute(0, 2, 3, 1)
            parts = [z[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
            y = torch.cat(parts, -1).flatten(1, 2)
        return self.linear(y)

    def reference(self, x: Live, kept: Kept) -> Live:
        v = x.values[:, :, : 2 * self.rows, : 2 * self.columns]
        cells = v.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (N, C, rows, i, columns, j)
        if self.style == "merge":
            y = cells.permute(0, 2, 4, 5, 3, 1)
            places = (torch.arange(4)[:, None] * x.size + x.index).flatten()
        else:
            y = cells.permute(0, 2, 4, 1, 3, 5)
            places = (x.index[:, None] * 4 + torch.arange(4)).flatten()
        return kept.apply(self.linear, Live(y.flatten(3).flatten(1, 2), places, 4 * x.size, -1))


@kind("map", fits=rank_is(2))
class Fourier(Block):
    """GFNet's filter: a complex table over frequencies."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        h, w = shape.sides
        self.filter = nn.Parameter(torch.randn(shape.channels, h, w // 2 + 1, 2) * 0.5)
        self.sides = shape.sides

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(x, norm="ortho") * torch.view_as_complex(self.filter)
        return torch.fft.irfft2(spectrum, s=self.sides, norm="ortho")

    def reference(self, x: Live, kept: Kept) -> Live:
        table = torch.view_as_complex(kept.meet(x, self.filter, 0))

        def filtered(v: Tensor) -> Tensor:
            spectrum = torch.fft.rfft2(v, norm="ortho") * table
            return torch.fft.irfft2(spectrum, s=self.sides, norm="ortho")

        return x.map(filtered)
