"""Tables, accumulators, loops, writes in place, recurrences made by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import CONV, Block, Draw, Shape, kind, same, width
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
        if self.style != "zero":  # an accumulator in the shape of h has h's channels
            parts.append(h.map(lambda v: torch.full_like(v, 0.5 if self.style == "ones" else 0.0)))
        return add(*parts)


@kind("tokens")
class HandmadeRecurrence(Block):
    """A loop over tokens with a state that begins as zeros(batch, self.hidden)."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.hidden = width(draw)
        super().__init__(shape.of(self.hidden))
        self.gated = draw.chance()
        outputs = 2 * self.hidden if self.gated else self.hidden
        self.inputs = nn.Linear(shape.channels, outputs)
        self.states = nn.Linear(self.hidden, outputs, bias=draw.chance())
        self.learned = nn.Parameter(torch.zeros(1, self.hidden)) if draw.chance(0.3) else None
        self.style = draw.of("stack", "buffer", "append")

    def forward(self, x: Tensor) -> Tensor:
        if self.learned is not None:
            state = self.learned.expand(x.shape[0], -1)
        else:
            state = torch.zeros(x.size(0), self.hidden, dtype=x.dtype, device=x.device)
        outputs = []
        out = x.new_empty(x.size(0), x.size(1), self.hidden)
        for t in range(x.size(1)):
            drive = self.inputs(x[:, t]) + self.states(state)
            if self.gated:
                update, candidate = drive.chunk(2, -1)
                update = update.sigmoid()
                state = update * state + (1 - update) * candidate.tanh()
            else:
                state = drive.tanh()
            out[:, t] = state
            outputs.append(state.unsqueeze(1))
        if self.style == "buffer":
            return out
        return torch.cat(outputs, 1) if self.style == "append" else torch.stack(
            [o.squeeze(1) for o in outputs], dim=1
        )

    def reference(self, x: Live, kept: Kept) -> Live:
        index = kept.of(self.states.weight, 1)
        state = x.values.new_zeros(len(x.values), len(index))
        if self.learned is not None:
            kept.agree(index, kept.of(self.learned, 1), "initial state")
            state = state + kept.cut(self.learned)
        current = Live(state, index, self.hidden, -1)
        outputs = []
        for t in range(x.values.shape[1]):
            drive = add(
                kept.apply(self.inputs, x.map(lambda v, t=t: v[:, t])),
                kept.apply(self.states, current),
            )
            if self.gated:
                current = merge(
                    lambda u, c, s: u.sigmoid() * s + (1 - u.sigmoid()) * c.tanh(),
                    *drive.chunk(2),
                    current,
                )
            else:
                kept.agree(drive.index, current.index, "state")
                current = drive.map(torch.tanh)
            outputs.append(current.values)
        return current.map(lambda _: torch.stack(outputs, 1))


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


@kind("tokens")
class StateSpace(Block):
    """Mamba's loop: a state for each channel, with a table of decays (channels, states)."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.inner, self.states = width(draw), 3
        super().__init__(shape)
        self.enter = nn.Linear(shape.channels, 2 * self.inner, bias=False)
        self.conv = nn.Conv1d(self.inner, self.inner, 3, groups=self.inner, padding=2)
        self.project = nn.Linear(self.inner, 2 * self.states + 1, bias=False)
        self.step = nn.Linear(1, self.inner)
        self.decay = nn.Parameter(torch.rand(self.inner, self.states))
        self.skip = nn.Parameter(torch.ones(self.inner))
        self.leave = nn.Linear(self.inner, shape.channels)

    def scan(
        self, u: Tensor, step: Tensor, b: Tensor, c: Tensor, decay: Tensor, skip: Tensor
    ) -> Tensor:
        """(N, T, d), (N, T, d), (N, T, n), (N, T, n), (d, n), (d,) to (N, T, d)."""
        state = torch.zeros(u.shape[0], u.shape[2], self.states, dtype=u.dtype)
        outputs = []
        for t in range(u.shape[1]):
            factor = torch.exp(step[:, t, :, None] * -torch.exp(decay))
            state = factor * state + (step[:, t] * u[:, t])[..., None] * b[:, t, None]
            outputs.append((state * c[:, t, None, :]).sum(-1))
        return torch.stack(outputs, 1) + u * skip

    def forward(self, x: Tensor) -> Tensor:
        u, gate = self.enter(x).chunk(2, dim=-1)
        u = functional.silu(self.conv(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2))
        delta, b, c = self.project(u).split([1, self.states, self.states], dim=-1)
        step = functional.softplus(self.step(delta))
        y = self.scan(u, step, b, c, self.decay, self.skip)
        return self.leave(y * functional.silu(gate)) + x

    def reference(self, x: Live, kept: Kept) -> Live:
        u, gate = kept.apply(self.enter, x).chunk(2)
        u = kept.apply(self.conv, u.map(lambda v: v.mT, 1))
        u = u.map(lambda v: functional.silu(v[..., : x.values.shape[1]]).mT, -1)
        projected = kept.apply(self.project, u).whole()
        delta, b, c = projected.split([1, self.states, self.states], dim=-1)
        step = kept.apply(self.step, Live(delta, torch.arange(1), 1, -1))
        step = step.map(functional.softplus)
        decay, skip = kept.meet(u, self.decay, 0), kept.meet(u, self.skip, 0)
        kept.agree(kept.of(self.decay, 1), torch.arange(self.states), "states")
        y = merge(
            lambda v, s, g: self.scan(v, s, b, c, decay, skip) * functional.silu(g), u, step, gate
        )
        return add(kept.apply(self.leave, y), x)


@kind("map")
class SharedSteps(Block):
    """A convolution that is shared by steps, each with a norm of its own."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.conv = CONV[shape.rank](shape.channels, shape.channels, 3, padding=1, bias=False)
        self.scales = nn.Parameter(torch.ones(3, shape.channels, *[1] * shape.rank))
        self.shifts = nn.ParameterList(
            nn.Parameter(torch.zeros(shape.channels, *[1] * shape.rank)) for _ in range(3)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for t in range(3):
            y = torch.tanh(self.conv(y) * self.scales[t] + self.shifts[t]) + x
        return y

    def reference(self, x: Live, kept: Kept) -> Live:
        y = x
        scales = kept.meet(x, self.scales, 1)
        kept.agree(kept.of(self.scales, 0), torch.arange(3), "steps")
        for t in range(3):
            shift = kept.meet(x, self.shifts[t], 0)
            y = merge(
                lambda v, w, t=t, shift=shift: torch.tanh(w * scales[t] + shift) + v,
                x,
                kept.apply(self.conv, y),
            )
        return y
