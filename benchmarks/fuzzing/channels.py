"""Splits, shuffles, and reductions over channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import Block, Draw, Shape, even, image, kind, same, width
from .live import Kept, Live, cat, merge


@kind(fits=even)
class Split(Block):
    """Cross-stage partial: one half of the channels goes through a layer."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.part = shape.channels // 2
        out = width(draw)
        super().__init__(shape.of(out + self.part))
        self.layer = same(draw, shape.of(self.part), out)
        self.style = draw.of("chunk", "split", "slice", "narrow", "unflatten")
        self.dim = 1 if shape.domain == "map" else -1

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "chunk":
            a, b = x.chunk(2, dim=self.dim)
        elif self.style == "split":
            a, b = torch.split(x, [self.part, x.shape[self.dim] - self.part], self.dim)
        elif self.style == "narrow":
            a, b = x.narrow(self.dim, 0, self.part), x.narrow(self.dim, self.part, self.part)
        elif self.style == "unflatten":
            a, b = x.unflatten(self.dim, (2, self.part)).unbind(self.dim if self.dim > 0 else -2)
        else:
            y = x.movedim(self.dim, 0)
            a, b = (part.movedim(0, self.dim) for part in (y[: self.part], y[self.part :]))
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
        self.part = shape.channels // 2
        super().__init__(shape)
        self.layer = same(draw, shape.of(self.part), self.part)
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


@kind(fits=even)
class Maxout(Block):
    """The larger of two channels, or the largest of all."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.part = draw.of(3, 4)
        super().__init__(shape.of(self.part))
        self.layer = same(draw, shape, 2 * self.part)
        self.dim = 1 if shape.domain == "map" else -1
        self.style = draw.of("view", "chunk", "pairs")

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        if self.style == "chunk":
            return torch.maximum(*y.chunk(2, self.dim))
        y = y.movedim(self.dim, -1)
        if self.style == "view":
            y = y.reshape(*y.shape[:-1], 2, self.part).amax(-2)
        else:
            y = y.unflatten(-1, (self.part, 2)).amax(-1)
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
