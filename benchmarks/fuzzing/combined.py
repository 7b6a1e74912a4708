"""Blocks made of blocks: residuals, branches, dense blocks, shared layers, skips."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import CONV, KINDS, UP, Block, Draw, Shape, kind, same, width
from .live import Kept, Live, add, cat, merge

NEST = 0.6
"""How often a part of a combined block is drawn from the whole table."""


def inner(draw: Draw, shape: Shape) -> Block:
    """A block that leaves domain and sides: a plain one, or any of the table."""
    names = ["plain"]
    if draw.chance(NEST):
        names = [name for name, entry in KINDS.items() if entry.keeps and entry.fits(shape)]
    return KINDS[draw.of(*names)].make(draw, shape)


class _Branch(Block):
    """A random block, and a layer that brings it to so many channels."""

    def __init__(self, draw: Draw, shape: Shape, out: int) -> None:
        super().__init__(shape.of(out))
        self.first = inner(draw, shape)
        self.last = same(draw, self.first.out, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x))

    def reference(self, x: Live, kept: Kept) -> Live:
        return kept.apply(self.last, kept.apply(self.first, x))


@kind()
class Residual(Block):
    """x + f(x), with a scale for each channel, a norm before, a projected or padded shortcut."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.style = draw.of("plain", "plain", "project", "pad", "scale", "iadd", "gate")
        self.extra = draw.of(2, 4) if self.style == "pad" else 0
        out = width(draw) if self.style == "project" else shape.channels + self.extra
        super().__init__(shape.of(out))
        self.branch = _Branch(draw, shape, out)
        self.shortcut = same(draw, shape, out) if self.style == "project" else nn.Identity()
        thin = [1] * (shape.rank if shape.domain == "map" else 0)
        self.gamma = nn.Parameter(torch.zeros(out, *thin))
        self.places = [0, 0] * (shape.rank if shape.domain == "map" else 0)

    def forward(self, x: Tensor) -> Tensor:
        y = self.branch(x)
        if self.style == "pad":
            low = self.extra // 2
            return y + functional.pad(x, [*self.places, low, self.extra - low])
        if self.style == "scale":
            return x + self.gamma * y
        if self.style == "iadd":
            y += x
            return functional.relu_(y)
        if self.style == "gate":
            g = self.gamma.sigmoid()
            return g * x + (1 - g) * y
        return y + self.shortcut(x)

    def reference(self, x: Live, kept: Kept) -> Live:
        y = kept.apply(self.branch, x)
        if self.style == "pad":
            low = self.extra // 2
            nothing = torch.zeros_like(x.values.narrow(x.dim, 0, 1))
            before, after = (
                Live(nothing.repeat_interleave(n, x.dim), torch.arange(n), n, x.dim)
                for n in (low, self.extra - low)
            )
            return add(y, cat([before, x, after]))
        if self.style in ("scale", "gate"):
            kept.agree(x.index, y.index, "residual")
            gamma = kept.meet(x, self.gamma, 0)
            if self.style == "scale":
                return merge(lambda v, w: v + gamma * w, x, y)
            g = gamma.sigmoid()
            return merge(lambda v, w: g * v + (1 - g) * w, x, y)
        if self.style == "iadd":
            return add(y, x).map(torch.relu)
        return add(y, kept.apply(self.shortcut, x))


@kind()
class Concatenated(Block):
    """Two or three branches side by side: Inception."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        parts = [inner(draw, shape) for _ in range(draw.of(2, 3))]
        super().__init__(shape.of(sum(part.out.channels for part in parts)))
        self.parts = nn.ModuleList(parts)
        self.dim = 1 if shape.domain == "map" else -1

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], self.dim)

    def reference(self, x: Live, kept: Kept) -> Live:
        return cat([kept.apply(part, x) for part in self.parts])


@kind()
class DenseBlock(Block):
    """Each layer reads all maps before it."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.grow, self.count = draw.of(2, 3, 4), draw.of(2, 3)
        super().__init__(shape.of(shape.channels + self.grow * self.count))
        self.layers = nn.ModuleList(
            same(draw, shape.of(shape.channels + n * self.grow), self.grow)
            for n in range(self.count)
        )
        self.dim = 1 if shape.domain == "map" else -1
        self.listed = draw.chance()

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            if self.listed:
                features.append(functional.relu(layer(torch.cat(features, self.dim))))
            else:
                x = torch.cat([x, functional.relu(layer(x))], self.dim)
        return torch.cat(features, self.dim) if self.listed else x

    def reference(self, x: Live, kept: Kept) -> Live:
        for layer in self.layers:
            x = cat([x, kept.apply(layer, x).map(torch.relu)])
        return x


@kind()
class Gated(Block):
    """One branch gates another; or both are compared, or averaged."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        out = width(draw)
        super().__init__(shape.of(out))
        self.a, self.b = _Branch(draw, shape, out), _Branch(draw, shape, out)
        self.style = draw.of("times", "maximum", "stack", "where", "minus", "mul_", "sum")

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        if self.style == "times":
            return a * torch.sigmoid(b)
        if self.style == "maximum":
            return torch.maximum(a, b)
        if self.style == "stack":
            return torch.stack((a, b)).mean(0)
        if self.style == "where":
            return torch.where(a > b, a, b * 0.1)
        if self.style == "minus":
            return (a - b).abs()
        if self.style == "sum":
            return sum([a, b], torch.zeros(()))
        return a.clone().mul_(b.tanh())

    def reference(self, x: Live, kept: Kept) -> Live:
        def function(a: Tensor, b: Tensor) -> Tensor:
            made = {
                "times": a * b.sigmoid(),
                "maximum": torch.maximum(a, b),
                "stack": (a + b) / 2,
                "where": torch.where(a > b, a, b * 0.1),
                "minus": (a - b).abs(),
                "sum": a + b,
                "mul_": a * b.tanh(),
            }
            return made[self.style]

        return merge(function, kept.apply(self.a, x), kept.apply(self.b, x))


@kind()
class SharedLayer(Block):
    """One layer reads two branches; their results are added or put side by side."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        middle, out = width(draw), width(draw)
        self.side = draw.chance()
        super().__init__(shape.of(2 * out if self.side else out))
        self.a, self.b = _Branch(draw, shape, middle), _Branch(draw, shape, middle)
        self.shared = same(draw, shape.of(middle), out)
        self.dim = 1 if shape.domain == "map" else -1

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.shared(self.a(x)), self.shared(self.b(x))
        return torch.cat([a, b], self.dim) if self.side else a + b

    def reference(self, x: Live, kept: Kept) -> Live:
        parts = [kept.apply(self.shared, kept.apply(f, x)) for f in (self.a, self.b)]
        return cat(parts) if self.side else add(*parts)


@kind("map", fits=lambda s: s.rank < 3 and all(n % 2 == 0 for n in s.sides))
class Hourglass(Block):
    """U-Net's step down and up, with a skip that is concatenated or added."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        middle = width(draw)
        self.join = draw.of("cat", "add")
        out = shape.channels + middle if self.join == "cat" else shape.channels
        super().__init__(shape.of(out))
        up = middle if self.join == "cat" else shape.channels
        small = Shape("map", middle, tuple(s // 2 for s in shape.sides))
        self.down = CONV[shape.rank](shape.channels, middle, 3, stride=2, padding=1)
        self.middle = _Branch(draw, small, middle)
        self.up = UP[shape.rank](middle, up, 2, stride=2)
        self.resize = draw.chance(0.3) and up == middle

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle(functional.relu(self.down(x)))
        y = functional.interpolate(y, size=x.shape[2:]) if self.resize else self.up(y)
        return torch.cat([x, y], dim=1) if self.join == "cat" else x + y

    def reference(self, x: Live, kept: Kept) -> Live:
        y = kept.apply(self.middle, kept.apply(self.down, x).map(torch.relu))
        if self.resize:
            y = y.map(lambda v: functional.interpolate(v, size=x.values.shape[2:]))
        else:
            y = kept.apply(self.up, y)
        return cat([x, y]) if self.join == "cat" else add(x, y)


@kind()
class Selected(Block):
    """Channels picked by index, reversed, repeated or padded."""

    places: Tensor

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.style = draw.of("flip", "step", "repeat", "interleave", "pad", "index", "tile")
        places = torch.arange(shape.channels)
        if self.style == "flip":
            places = places.flip(0)
        elif self.style == "step":
            places = places[::2]
        elif self.style in ("repeat", "tile"):
            places = places.repeat(2)
        elif self.style == "interleave":
            places = places.repeat_interleave(2)
        elif self.style == "index":
            places = torch.tensor([draw.number(0, shape.channels - 1) for _ in range(5)])
        size = len(places) + 2 if self.style == "pad" else len(places)
        super().__init__(shape.of(size))
        self.register_buffer("places", places)
        self.dim = 1 if shape.domain == "map" else -1
        self.pads = [0, 0] * (shape.rank if shape.domain == "map" else 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "flip":
            return x.flip(self.dim)
        if self.style == "step":
            return x[:, ::2] if self.dim == 1 else x[..., ::2]
        if self.style == "pad":
            return functional.pad(x, [*self.pads, 1, 1], value=0.3)
        if self.style == "repeat":
            return torch.cat([x, x], self.dim)
        if self.style == "tile":
            sizes = [1] * x.dim()
            sizes[self.dim] = 2
            return x.repeat(*sizes)
        if self.style == "interleave":
            return x.repeat_interleave(2, self.dim)
        return x.index_select(self.dim, self.places)

    def reference(self, x: Live, kept: Kept) -> Live:
        if self.style == "pad":
            edge = x.values.narrow(x.dim, 0, 1)
            side = Live(torch.full_like(edge, 0.3), torch.arange(1), 1, x.dim)
            return cat([side, x, side])
        kept.agree(kept.of(self.places, 0), torch.arange(len(self.places)), "places")
        return x.gather(self.places)
