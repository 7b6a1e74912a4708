"""Gates: channels or positions that are scaled by what another layer makes of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import CONV, Block, Draw, Shape, image, kind, same, width
from .live import Kept, Live, merge


@kind("map")
class SqueezeExcite(Block):
    """A gate for each channel from the mean of its map."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        hidden = draw.of(2, 4)
        self.linear = draw.chance()
        conv: Any = (lambda i, o: nn.Linear(i, o)) if self.linear else CONV[shape.rank]
        size = () if self.linear else (1,)
        self.reduce = conv(shape.channels, hidden, *size)
        self.expand = conv(hidden, shape.channels, *size)
        self.shared_max = draw.chance()
        self.flat = draw.chance()

    def forward(self, x: Tensor) -> Tensor:
        dims = tuple(range(2, x.dim()))
        s = x.mean(dims, keepdim=not self.linear)
        gate = self.expand(functional.relu(self.reduce(s)))
        if self.shared_max:  # CBAM's channel attention
            gate = gate + self.expand(functional.relu(self.reduce(x.amax(dims, not self.linear))))
        gate = torch.sigmoid(gate)
        if self.linear:
            b, c = x.shape[:2]
            gate = (
                gate.view(b, c, *[1] * len(dims))
                if self.flat
                else gate.reshape(b, -1, *[1] * len(dims))
            )
        return x * gate.expand_as(x)

    def reference(self, x: Live, kept: Kept) -> Live:
        dims = tuple(range(2, x.values.dim()))

        def squeezed(pooled: Live) -> Live:
            if self.linear:
                pooled = pooled.map(lambda v: v.flatten(1), -1)
            hidden = kept.apply(self.reduce, pooled).map(functional.relu)
            expanded = kept.apply(self.expand, hidden)
            return expanded.map(lambda v: v.view(*v.shape[:2], *[1] * len(dims)), 1)

        gate = squeezed(x.map(lambda v: v.mean(dims, keepdim=True)))
        if self.shared_max:
            peak = squeezed(x.map(lambda v: v.amax(dims, keepdim=True)))
            gate = merge(torch.add, gate, peak)
        return merge(lambda v, g: v * g.sigmoid(), x, gate)


@kind("map")
class SpatialGate(Block):
    """CBAM's: mean and largest value over channels make a gate for each position."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.conv = CONV[shape.rank](2, 1, 3, padding=1)
        self.style = draw.of("cat", "stack")

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "cat":
            pooled = torch.cat((x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]), dim=1)
        else:
            pooled = torch.stack((x.mean(1), x.amax(1)), 1)
        return x * torch.sigmoid(self.conv(pooled))

    def reference(self, x: Live, kept: Kept) -> Live:
        return x.map(self)


@kind("map")
class SmallGate(Block):
    """A convolution to one channel gates all of them; then a scale for each channel."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.gate = CONV[shape.rank](shape.channels, 1, 1)
        self.scale = nn.Parameter(torch.ones(shape.channels, *[1] * shape.rank))
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        y = x * self.gate(x).sigmoid() * self.alpha
        return x + y * self.scale

    def reference(self, x: Live, kept: Kept) -> Live:
        gate = kept.apply(self.gate, x).values.sigmoid() * self.alpha
        scale = kept.meet(x, self.scale, 0)
        return x.map(lambda v: v + v * gate * scale)


@kind("map", fits=image)
class EfficientChannel(Block):
    """ECA: a convolution over the row of channels."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.unsqueeze = draw.chance()

    def forward(self, x: Tensor) -> Tensor:
        s = x.mean((2, 3))
        if self.unsqueeze:
            y = self.conv(s.unsqueeze(1)).squeeze(1)[..., None, None]
        else:
            y = self.conv(s.view(s.size(0), 1, -1)).view(s.size(0), -1, 1, 1)
        return x * y.sigmoid()

    def reference(self, x: Live, kept: Kept) -> Live:
        return x.map(lambda _: self(x.whole()))


@kind("map", fits=image)
class FeatureMix(Block):
    """A few kernels or experts, mixed by weights that depend on the input."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        out = width(draw)
        super().__init__(shape.of(out))
        self.experts = nn.ModuleList(nn.Conv2d(shape.channels, out, 3, padding=1) for _ in "ab")
        self.router = nn.Linear(shape.channels, 2)
        self.style = draw.of("loop", "stack")

    def forward(self, x: Tensor) -> Tensor:
        route = self.router(x.mean((-2, -1))).softmax(-1)
        if self.style == "stack":
            y = torch.stack([expert(x) for expert in self.experts], 1)
            return (y * route[:, :, None, None, None]).sum(1)
        out: Any = 0
        for n, expert in enumerate(self.experts):
            out = out + expert(x) * route[:, n].view(-1, 1, 1, 1)
        return out

    def reference(self, x: Live, kept: Kept) -> Live:
        mean = x.map(lambda v: v.mean((-2, -1)), -1)
        route = kept.apply(self.router, mean)
        route = route.map(lambda _: route.whole().softmax(-1))
        parts = [kept.apply(expert, x) for expert in self.experts]
        weights = [route.values[:, n].view(-1, 1, 1, 1) for n in range(2)]
        return merge(lambda a, b: a * weights[0] + b * weights[1], *parts)


@kind("map", fits=image)
class Film(Block):
    """Scale and shift of each channel from another layer."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        out = width(draw)
        super().__init__(shape.of(out))
        self.conv = nn.Conv2d(shape.channels, out, 3, padding=1)
        self.film = nn.Linear(shape.channels, 2 * out)
        self.out_channels = out
        self.style = draw.of("chunk", "view", "split", "slice")

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        f = self.film(x.mean((2, 3)))
        if self.style == "chunk":
            gamma, beta = f.chunk(2, dim=1)
        elif self.style == "view":
            gamma, beta = f.view(-1, 2, self.out_channels).unbind(1)
        elif self.style == "split":
            gamma, beta = f.split(y.shape[1], 1)
        else:
            gamma, beta = f[:, : self.out_channels], f[:, self.out_channels :]
        return y * (1 + gamma[..., None, None]) + beta.unsqueeze(-1).unsqueeze(-1)

    def reference(self, x: Live, kept: Kept) -> Live:
        y = kept.apply(self.conv, x)
        film = kept.apply(self.film, x.map(lambda v: v.mean((2, 3)), -1))
        gamma, beta = (part.map(lambda v: v[..., None, None], 1) for part in film.chunk(2))
        return merge(lambda v, g, b: v * (1 + g) + b, y, gamma, beta)


@kind("map", fits=image)
class Gram(Block):
    """Products of channels with channels: bilinear pooling, a non-local gate."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.layer = same(draw, shape, shape.channels)

    def forward(self, x: Tensor) -> Tensor:
        f = self.layer(x).flatten(2)
        scores = torch.bmm(f, f.transpose(1, 2)).softmax(-1)
        return x + torch.bmm(scores, x.flatten(2)).view(x.shape) * 0.5

    def reference(self, x: Live, kept: Kept) -> Live:
        def attended(v: Tensor, f: Tensor) -> Tensor:
            scores = torch.einsum("ncp,ndp->ncd", f.flatten(2), f.flatten(2)).softmax(-1)
            return v + 0.5 * torch.einsum("ncd,ndp->ncp", scores, v.flatten(2)).view_as(v)

        return merge(attended, x, kept.apply(self.layer, x))
