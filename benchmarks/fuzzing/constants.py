"""Tables, accumulators, writes in place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .blocks import Block, Draw, Shape, kind, same, width
from .live import Kept, Live, MismatchError, add, cat, merge


@kind()
class Accumulator(Block):
    """A sum that begins as zeros, made in six ways."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        out = width(draw)
        super().__init__(shape.of(out))
        self.stem = same(draw, shape, out)
        self.parts = nn.ModuleList(same(draw, shape.of(out), out) for _ in range(draw.number(1, 2)))
        self.hidden = out
        self.style = draw.of(
            "zeros_like", "new_zeros", "new_shape", "zeros", "zero", "in_place", "empty", "ones"
        )
        self.dim = 1 if shape.domain == "map" else -1

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.stem(x))
        sizes = list(h.shape)
        sizes[self.dim] = self.hidden
        total: Tensor
        if self.style in ("zeros_like", "in_place"):
            total = torch.zeros_like(h)
        elif self.style == "new_zeros":
            total = h.new_zeros(h.shape)
        elif self.style == "new_shape":
            total = h.new_zeros(*sizes)
        elif self.style == "zeros":
            total = torch.zeros(sizes, dtype=h.dtype, device=h.device)
        elif self.style == "empty":
            total = torch.empty_like(h).zero_()
        elif self.style == "ones":
            total = torch.ones_like(h) * 0.5
        else:
            total = torch.tensor(0.0, dtype=h.dtype)
        for part in self.parts:
            if self.style == "in_place":
                total += part(h)
            else:
                total = total + part(h)
        return total

    def reference(self, x: Live, kept: Kept) -> Live:
        h = kept.apply(self.stem, x).map(torch.relu)
        parts = [kept.apply(part, h) for part in self.parts]
        # An accumulator in the shape of h has h's channels, one of self.hidden channels the sum's.
        if self.style not in ("zero", "zeros", "new_shape"):
            parts.append(h.map(lambda v: torch.full_like(v, 0.5 if self.style == "ones" else 0.0)))
        return add(*parts)


@kind()
class Table(Block):
    """A learned or fixed table that is added or multiplied: positions, means, masks."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        channels = shape.channels
        full = (channels, *shape.sides) if shape.domain == "map" else (*shape.sides, channels)
        thin = (channels, *[1] * shape.rank) if shape.domain == "map" else (channels,)
        sizes = draw.of(full, thin, (1, *full), (1, *thin))
        table = torch.randn(sizes)
        self.learned = draw.chance(0.6)
        if self.learned:
            self.table = nn.Parameter(table)
        else:
            self.register_buffer("table", table)
        self.style = draw.of("add", "times", "iadd", "gate", "scaled", "cut", "twice")
        self.length = sizes[-1]
        self.dim = len(sizes) - 1 - shape.rank if shape.domain == "map" else len(sizes) - 1

    def used(self, x: Tensor, table: Tensor) -> Tensor:
        """``x`` after the table."""
        if self.style == "times":
            return x * table
        if self.style == "gate":
            return x * table.sigmoid()
        if self.style == "scaled":
            return x + table * 0.5
        if self.style == "twice":
            return (x + table).tanh() * table
        return x + table

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "iadd":
            x = x * 1.0
            x += self.table
            return x
        if self.style == "cut" and self.table.shape[-1] == x.shape[-1]:
            return x + self.table[..., : x.shape[-1]]
        return self.used(x, self.table)

    def reference(self, x: Live, kept: Kept) -> Live:
        table = kept.meet(x, self.table, self.dim)
        return x.map(lambda v: self.used(v, table))


@kind()
class WriteInPlace(Block):
    """x[:, :k] = f(x[:, :k]), slices of a buffer that are filled one by one, add_ and mul_."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.style = draw.of("slice", "add", "fill", "copy", "mul", "index_add")
        self.dim = 1 if shape.domain == "map" else -1
        self.k = draw.number(1, shape.channels - 1)
        self.width = width(draw)
        out = self.width + shape.channels if self.style in ("fill", "copy") else shape.channels
        super().__init__(shape.of(out))
        self.c = shape.channels
        self.total = out
        made = {"slice": self.k, "fill": self.width, "copy": self.width}.get(self.style, self.c)
        self.layer = same(draw, shape.of(self.k) if self.style == "slice" else shape, made)

    def forward(self, x: Tensor) -> Tensor:
        if self.style in ("add", "mul", "index_add"):
            y = x.clone()
            if self.style == "add":
                return y.add_(self.layer(x)).relu_()
            if self.style == "mul":
                y *= self.layer(x).sigmoid()
                return y
            y[:] += self.layer(x)
            return y
        if self.style == "slice":
            y = x.movedim(self.dim, -1).clone()
            part = y[..., : self.k].movedim(-1, self.dim).clone()
            y[..., : self.k] = self.layer(part).movedim(self.dim, -1)
            return y.movedim(-1, self.dim)
        sizes = list(x.shape)
        sizes[self.dim] = self.total
        out = x.new_empty(sizes) if self.style == "copy" else torch.zeros(sizes, dtype=x.dtype)
        if self.dim == 1:
            out[:, : self.c] = x
            out[:, self.c :] = self.layer(x)
        elif self.style == "copy":
            out.narrow(-1, 0, self.c).copy_(x)
            out.narrow(-1, self.c, self.width).copy_(self.layer(x))
        else:
            out[..., : self.c] = x
            out[..., self.c :] = self.layer(x)
        return out

    def reference(self, x: Live, kept: Kept) -> Live:
        if self.style == "slice":
            made = kept.apply(self.layer, x.take(0, self.k))
            old = x.take(0, self.k)
            if not torch.equal(made.index, old.index):
                raise MismatchError("written over with other channels")
            return cat([made, x.take(self.k, x.size)])
        made = kept.apply(self.layer, x)
        if self.style == "add":
            return merge(lambda v, m: (v + m).relu(), x, made)
        if self.style == "mul":
            return merge(lambda v, m: v * m.sigmoid(), x, made)
        if self.style == "index_add":
            return merge(torch.add, x, made)
        return cat([x, made])
