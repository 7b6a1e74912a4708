"""Splits, concatenations, shuffles, gates, and reductions over channels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import CONV, Block, Draw, Shape, even, image, kind, same, width
from .live import Kept, Live, cat, merge


@kind(fits=even)
class Split(Block):
    """Cross-stage partial: one half of the channels goes through a layer."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.half = shape.channels // 2
        out = width(draw)
        super().__init__(shape.of(out + self.half))
        self.layer = same(draw, shape.of(self.half), out)
        self.style = draw.of("chunk", "split", "slice", "narrow", "unflatten")
        self.dim = 1 if shape.domain == "map" else -1

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "chunk":
            a, b = x.chunk(2, dim=self.dim)
        elif self.style == "split":
            a, b = torch.split(x, [self.half, x.shape[self.dim] - self.half], self.dim)
        elif self.style == "narrow":
            a, b = x.narrow(self.dim, 0, self.half), x.narrow(self.dim, self.half, self.half)
        elif self.style == "unflatten":
            a, b = x.unflatten(self.dim, (2, self.half)).unbind(self.dim if self.dim > 0 else -2)
        else:
            y = x.movedim(self.dim, 0)
            a, b = (part.movedim(0, self.dim) for part in (y[: self.half], y[self.half :]))
        return torch.cat((self.layer(a), b), self.dim)

    def reference(self, x: Live, kept: Kept) -> Live:
        a, b = x.chunk(2)
        return cat([kept.apply(self.layer, a), b])


@kind(fits=even)
class GatedLinear(Block):
    """GLU: half of the channels gates the other half."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        out = width(draw)
        super().__init__(shape.of(out))
        self.layer = same(draw, shape, 2 * out)
        self.hidden = out
        self.style = draw.of("glu", "chunk", "split", "swiglu")
        self.dim = 1 if shape.domain == "map" else -1

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.style == "glu":
            return functional.glu(y, self.dim)
        if self.style == "split":
            value, gate = y.split(self.hidden, dim=self.dim)
        else:
            value, gate = y.chunk(2, self.dim)
        return value * (functional.silu(gate) if self.style == "swiglu" else gate.sigmoid())

    def reference(self, x: Live, kept: Kept) -> Live:
        value, gate = kept.apply(self.layer, x).chunk(2)
        squash = functional.silu if self.style == "swiglu" else torch.sigmoid
        return merge(lambda v, g: v * squash(g), value, gate)


@kind("map", fits=even)
class Shuffle(Block):
    """ShuffleNet: two halves, one through a layer, and a channel shuffle."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.half = shape.channels // 2
        super().__init__(shape)
        self.layer = same(draw, shape.of(self.half), self.half)
        self.builtin = draw.chance(0.3)
        self.branch = draw.chance()

    def forward(self, x: Tensor) -> Tensor:
        if self.branch:
            a, b = x.chunk(2, 1)
            x = torch.cat((a, self.layer(b)), 1)
        if self.builtin:
            return functional.channel_shuffle(x, 2)
        batch, channels, *sides = x.size()
        y = x.view(batch, 2, channels // 2, *sides).transpose(1, 2).contiguous()
        return y.view(batch, channels, *sides)

    def reference(self, x: Live, kept: Kept) -> Live:
        if self.branch:
            a, b = x.chunk(2)
            x = cat([a, kept.apply(self.layer, b)])
        return x.gather(torch.arange(x.size).view(2, -1).T.flatten())


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
            gate = gate.view(b, c, *[1] * len(dims)) if self.flat else gate.reshape(b, -1, *[1] * len(dims))
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


@kind(fits=even)
class Maxout(Block):
    """The larger of two channels, or the largest of all."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.half = draw.of(3, 4)
        super().__init__(shape.of(self.half))
        self.layer = same(draw, shape, 2 * self.half)
        self.dim = 1 if shape.domain == "map" else -1
        self.style = draw.of("view", "chunk", "pairs")

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.style == "chunk":
            return torch.maximum(*y.chunk(2, self.dim))
        y = y.movedim(self.dim, -1)
        if self.style == "view":
            y = y.reshape(*y.shape[:-1], 2, self.half).amax(-2)
        else:
            y = y.unflatten(-1, (self.half, 2)).amax(-1)
        return y.movedim(-1, self.dim)

    def reference(self, x: Live, kept: Kept) -> Live:
        y = kept.apply(self.layer, x)
        if self.style != "pairs":
            return merge(torch.maximum, *y.chunk(2))
        first, second = (y.gather(torch.arange(n, y.size, 2)) for n in (0, 1))
        return merge(torch.maximum, first, second)


@kind()
class OverChannels(Block):
    """Softmax, unit length, centring or a sum over channels."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.dim = 1 if shape.domain == "map" else -1
        self.channels = shape.channels
        self.style = draw.of(
            "softmax", "normalize", "centre", "log_softmax", "share", "std", "logsumexp", "scaled"
        )

    def forward(self, x: Tensor) -> Tensor:
        d = self.dim
        if self.style == "softmax":
            return x * x.softmax(d)
        if self.style == "normalize":
            return functional.normalize(x, p=2, dim=d)
        if self.style == "centre":
            return x - x.mean(d, keepdim=True)
        if self.style == "log_softmax":
            return functional.log_softmax(x, dim=d)
        if self.style == "share":
            return x / (x.abs().sum(d, keepdim=True) + 1)
        if self.style == "std":
            return x / (x.std(dim=d, keepdim=True, unbiased=False) + 0.5)
        if self.style == "scaled":  # the number of channels in a formula
            return x * (x.square().sum(d, keepdim=True) / x.shape[d] + 0.5).rsqrt()
        return x - x.logsumexp(d, keepdim=True)


@kind("map", fits=image)
class ByPlace(Block):
    """Code that treats channels by their place: neighbours, a ramp, a sum so far."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.style = draw.of("response", "ramp", "cumsum", "loop", "roll", "conv")
        self.conv = nn.Conv3d(1, 1, 3, padding=1) if self.style == "conv" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "response":
            return functional.local_response_norm(x, 3)
        if self.style == "ramp":
            return x * (torch.arange(x.shape[1], dtype=x.dtype) + 1).view(1, -1, 1, 1)
        if self.style == "cumsum":
            return x.cumsum(1)
        if self.style == "roll":
            return x + x.roll(1, 1)
        if self.conv is not None:
            return self.conv(x.unsqueeze(1)).squeeze(1)
        return torch.stack([x[:, i] * (i + 1) for i in range(x.shape[1])], 1)

    def reference(self, x: Live, kept: Kept) -> Live:
        if self.style in ("ramp", "loop"):
            place = (x.index + 1).view(1, -1, 1, 1)
            return x.map(lambda v: v * place)
        if self.style == "cumsum":  # of what is left: a missing channel counts as zero
            return x.map(lambda v: v.cumsum(1))
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
        out = 0
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
