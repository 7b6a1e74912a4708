"""More that mixes tokens: grouped queries, PyTorch's own attention, mixers, recurrent layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .attention import attend, heads_of, joined
from .blocks import Block, Draw, Shape, image, kind
from .live import Kept, Live, MismatchError, add, cat


@kind("tokens")
class GroupedQueries(Block):
    """Fewer heads of keys and values than of queries, repeated in four ways."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.groups = draw.of(1, 2)
        self.many = 2
        self.heads, self.d = self.groups * self.many, 2
        self.q = nn.Linear(shape.channels, self.heads * self.d)
        self.kv = nn.Linear(shape.channels, 2 * self.groups * self.d)
        self.proj = nn.Linear(self.heads * self.d, shape.channels)
        self.style = draw.of("repeat_interleave", "expand", "enable_gqa", "view")

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, self.heads, self.d).transpose(1, 2)
        k, v = self.kv(x).view(b, t, 2, self.groups, self.d).permute(2, 0, 3, 1, 4)
        if self.style == "repeat_interleave":
            k, v = (p.repeat_interleave(self.many, dim=1) for p in (k, v))
        elif self.style == "expand":
            k, v = (
                p[:, :, None].expand(b, self.groups, self.many, t, self.d).reshape(q.shape)
                for p in (k, v)
            )
        elif self.style == "view":
            q = q.reshape(b, self.groups, self.many, t, self.d)
            y = (q @ k[:, :, None].mT * self.d**-0.5).softmax(-1) @ v[:, :, None]
            return self.proj(y.flatten(1, 2).transpose(1, 2).reshape(b, t, -1))
        grouped = self.style == "enable_gqa"
        y = functional.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)
        return self.proj(y.transpose(1, 2).reshape(b, t, -1))

    def reference(self, x: Live, kept: Kept) -> Live:
        q = kept.apply(self.q, x)
        keys, values = kept.apply(self.kv, x).chunk(2)
        kept.agree(keys.index, values.index, "keys and values")
        queries = heads_of(q, self.heads, kept)
        k, v = heads_of(keys, self.groups, kept), heads_of(values, self.groups, kept)
        left = q.index.view(-1, self.d)[:, 0] // self.d
        stored = (keys.index.view(-1, self.d)[:, 0] // self.d).tolist()
        if {int(h) // self.many for h in left} != set(stored):
            raise MismatchError("a group of queries has no keys, or keys nobody asks")
        if len(left) % len(stored):
            raise MismatchError("groups of queries are left unequal")
        own = torch.tensor([stored.index(int(h) // self.many) for h in left])
        return kept.apply(self.proj, joined(attend(queries, k[:, own], v[:, own]), q))


@kind("tokens")
class Multihead(Block):
    """nn.MultiheadAttention, in a residual with a norm, or a whole encoder layer."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.enter = nn.Linear(shape.channels, 8)
        self.norm = nn.LayerNorm(8)
        self.heads = draw.of(2, 4)
        self.attention = nn.MultiheadAttention(8, self.heads, batch_first=True, bias=draw.chance())
        self.weights = draw.chance()
        self.leave = nn.Linear(8, shape.channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        y = self.norm(x)
        y, _ = self.attention(y, y, y, need_weights=self.weights)
        return self.leave(x + y)

    def reference(self, x: Live, kept: Kept) -> Live:
        x = kept.apply(self.enter, x)
        y = kept.apply(self.norm, x)
        packed = self.attention.in_proj_weight
        made = y.values @ kept.meet(y, packed, 1).mT
        produced = kept.of(packed, 0)
        if self.attention.in_proj_bias is not None:
            kept.agree(produced, kept.of(self.attention.in_proj_bias, 0), "in_proj_bias")
            made = made + kept.cut(self.attention.in_proj_bias)
        parts = Live(made, produced, 24, -1).chunk(3)
        for part in parts:
            kept.agree(part.index, parts[0].index, "queries, keys, values")
        q, k, v = (heads_of(part, self.heads, kept) for part in parts)
        y = kept.apply(self.attention.out_proj, joined(attend(q, k, v), parts[0]))
        return kept.apply(self.leave, add(x, y))


@kind("tokens")
class Mixer(Block):
    """A linear layer over tokens, or gMLP's gate of tokens."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.hidden = draw.of(4, 6)
        self.gate = draw.chance()
        self.enter = nn.Linear(shape.channels, 2 * self.hidden if self.gate else self.hidden)
        self.tokens = nn.Linear(shape.sides[0], shape.sides[0])
        self.leave = nn.Linear(self.hidden, shape.channels)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.gelu(self.enter(x))
        if self.gate:
            u, v = y.chunk(2, -1)
            y = u * self.tokens(v.transpose(1, 2)).transpose(1, 2)
        else:
            y = self.tokens(y.mT).mT
        return x + self.leave(y)

    def reference(self, x: Live, kept: Kept) -> Live:
        y = kept.apply(self.enter, x).map(functional.gelu)

        def over_tokens(v: Tensor) -> Tensor:
            mixed = torch.einsum("ntc,st->nsc", v, self.tokens.weight)
            return mixed + self.tokens.bias[:, None]

        if self.gate:
            u, v = y.chunk(2)
            kept.agree(u.index, v.index, "gate")
            y = u.map(lambda values: values * over_tokens(v.values))
        else:
            y = y.map(over_tokens)
        return add(x, kept.apply(self.leave, y))


@kind("map", fits=image)
class NonLocal(Block):
    """Attention between positions of a map, or linear attention with heads."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.inner = draw.of(4, 6)
        self.heads = 2
        self.query = nn.Conv2d(shape.channels, self.inner, 1)
        self.key = nn.Conv2d(shape.channels, self.inner, 1)
        self.value = nn.Conv2d(shape.channels, self.inner, 1)
        self.leave = nn.Conv2d(self.inner, shape.channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.linear = draw.chance()

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.size()
        if self.linear:
            shape = (b * self.heads, self.inner // self.heads, h * w)
            q, k, v = (f(x).reshape(shape) for f in (self.query, self.key, self.value))
            context = torch.bmm(k.softmax(-1), v.mT)
            y = torch.bmm(context.mT, q.softmax(1)).view(b, self.inner, h, w)
        else:
            q = self.query(x).view(b, -1, h * w).permute(0, 2, 1)
            scores = torch.bmm(q, self.key(x).view(b, -1, h * w)).softmax(-1)
            y = torch.bmm(self.value(x).flatten(2), scores.permute(0, 2, 1)).view(b, -1, h, w)
        return self.gamma * self.leave(y) + x

    def reference(self, x: Live, kept: Kept) -> Live:
        parts = [kept.apply(f, x) for f in (self.query, self.key, self.value)]
        q, k, v = (part.map(lambda t: t.flatten(2).mT, -1) for part in parts)
        sides = x.values.shape[2:]
        if self.linear:
            kept.agree(q.index, k.index, "queries and keys")
            qs, ks, vs = (heads_of(part, self.heads, kept) for part in (q, k, v))
            context = torch.einsum("nhtd,nhte->nhde", ks.softmax(-2), vs)
            y = joined(torch.einsum("nhde,nhtd->nhte", context, qs.softmax(-1)), v)
        else:
            kept.agree(q.index, k.index, "queries and keys")
            scores = torch.einsum("ntd,nsd->nts", q.values, k.values).softmax(-1)
            y = v.map(lambda t: scores @ t)
        y = y.map(lambda t: t.mT.unflatten(-1, sides), 1)
        return add(kept.apply(self.leave, y).map(lambda t: self.gamma * t), x)


@kind("tokens")
class Recurrent(Block):
    """PyTorch's GRU, LSTM and RNN."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        hidden = draw.of(4, 6)
        both = draw.chance(0.3)
        super().__init__(shape.of(hidden * (2 if both else 1)))
        make = draw.of(nn.GRU, nn.LSTM, nn.RNN)
        self.layer = make(shape.channels, hidden, batch_first=True, bidirectional=both)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.layer(x)
        return y

    def reference(self, x: Live, kept: Kept) -> Live:
        runs = [self.run(x, kept, "")]
        if self.layer.bidirectional:
            backward = self.run(x.map(lambda v: v.flip(1)), kept, "_reverse")
            runs.append(backward.map(lambda v: v.flip(1)))
        return cat(runs)

    def run(self, x: Live, kept: Kept, suffix: str) -> Live:
        """One direction, step by step, on the hidden channels that are left."""
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        stored = [getattr(self.layer, name + suffix) for name in names]
        gates, size = len(stored[1]) // stored[1].shape[1], stored[1].shape[1]
        left = kept.of(stored[1], 1)
        rows = (torch.arange(gates)[:, None] * size + left).flatten()
        for tensor in stored:
            kept.agree(rows, kept.of(tensor, 0), "gates of a recurrent layer")
        kept.agree(x.index, kept.of(stored[0], 1), "recurrent layer")
        w, u, b, c = (kept.cut(tensor) for tensor in stored)
        state = cell = x.values.new_zeros(len(x.values), len(left))
        states = []
        for t in range(x.values.shape[1]):
            drive, back = x.values[:, t] @ w.T + b, state @ u.T + c
            if gates == 1:
                state = (drive + back).tanh()
            elif gates == 4:
                i, f, g, o = (drive + back).chunk(4, -1)
                cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
                state = o.sigmoid() * cell.tanh()
            else:
                ours, theirs = drive.chunk(3, -1), back.chunk(3, -1)
                reset, update = ((ours[n] + theirs[n]).sigmoid() for n in (0, 1))
                state = (1 - update) * (ours[2] + reset * theirs[2]).tanh() + update * state
            states.append(state)
        return Live(torch.stack(states, 1), left, size, -1)
