"""Loops over steps: recurrences made by hand, state spaces, layers shared by steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import CONV, Block, Draw, Shape, kind, width
from .live import Kept, Live, add, merge


def _gated(update: Tensor, candidate: Tensor, state: Tensor) -> Tensor:
    """The next state of a gated recurrence."""
    return update.sigmoid() * state + (1 - update.sigmoid()) * candidate.tanh()


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
        return (
            torch.cat(outputs, 1)
            if self.style == "append"
            else torch.stack([o.squeeze(1) for o in outputs], dim=1)
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
                kept.apply(self.inputs, Live(x.values[:, t], x.index, x.size, -1)),
                kept.apply(self.states, current),
            )
            if self.gated:
                update, candidate = drive.chunk(2)
                current = merge(_gated, update, candidate, current)
            else:
                kept.agree(drive.index, current.index, "state")
                current = drive.map(torch.tanh)
            outputs.append(current.values)
        return current.map(lambda _: torch.stack(outputs, 1))


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
