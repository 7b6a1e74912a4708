"""Parts of networks for images, as their papers' code writes them: attention, cells, grids."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import Block, Draw, Shape, image, kind, width
from .live import Kept, Live, add, cat, merge


@kind("map", fits=image)
class SplitAttention(Block):
    """ResNeSt and SKNet: branches that are weighed channel by channel, by a softmax over them."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.out_channels = width(draw)
        super().__init__(shape.of(self.out_channels))
        self.conv = nn.Conv2d(shape.channels, 2 * self.out_channels, 3, padding=1)
        self.reduce = nn.Conv2d(self.out_channels, 3, 1)
        self.expand = nn.Conv2d(3, 2 * self.out_channels, 1)
        self.style = draw.of("view", "split", "stack")

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.conv(x))
        b, _, h, w = y.shape
        if self.style == "view":
            parts = y.view(b, 2, self.out_channels, h, w)
        else:
            parts = torch.stack(y.split(y.shape[1] // 2, 1), 1)
        pooled = parts.sum(1).mean((2, 3), keepdim=True)
        gate = self.expand(functional.relu(self.reduce(pooled)))
        if self.style == "stack":
            gate = torch.stack(gate.chunk(2, 1), 1).softmax(1)
        else:
            gate = gate.view(b, 2, -1, 1, 1).softmax(dim=1)
        return (parts * gate).sum(dim=1)

    def reference(self, x: Live, kept: Kept) -> Live:
        one, two = kept.apply(self.conv, x).map(torch.relu).chunk(2)
        pooled = add(one, two).map(lambda v: v.mean((2, 3), keepdim=True))
        hidden = kept.apply(self.reduce, pooled).map(torch.relu)
        first, second = kept.apply(self.expand, hidden).chunk(2)

        def weighed(a: Tensor, b: Tensor, f: Tensor, s: Tensor) -> Tensor:
            share = (f - s).sigmoid()
            return a * share + b * (1 - share)

        return merge(weighed, one, two, first, second)


@kind("map", fits=image)
class CoordinateAttention(Block):
    """Gates for rows and columns, from a map of both one after the other."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.squeeze = nn.Conv2d(shape.channels, 4, 1)
        self.rows = nn.Conv2d(4, shape.channels, 1)
        self.columns = nn.Conv2d(4, shape.channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, _, h, w = x.size()
        rows = x.mean(3, keepdim=True)
        columns = x.mean(2, keepdim=True).permute(0, 1, 3, 2)
        y = functional.hardswish(self.squeeze(torch.cat([rows, columns], dim=2)))
        rows, columns = torch.split(y, [h, w], dim=2)
        gate = self.rows(rows).sigmoid() * self.columns(columns.permute(0, 1, 3, 2)).sigmoid()
        return x * gate

    def reference(self, x: Live, kept: Kept) -> Live:
        def squeezed(pooled: Live) -> Live:
            return kept.apply(self.squeeze, pooled).map(functional.hardswish)

        rows = kept.apply(self.rows, squeezed(x.map(lambda v: v.mean(3, keepdim=True))))
        columns = kept.apply(self.columns, squeezed(x.map(lambda v: v.mean(2, keepdim=True))))
        return merge(lambda v, r, c: v * r.sigmoid() * c.sigmoid(), x, rows, columns)


@kind("map", fits=lambda s: image(s) and s.channels % 2 == 0)
class Involution(Block):
    """A kernel for each position, made by a layer and shared by a group of channels."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.groups, self.per_group = 2, shape.channels // 2
        self.kernel = nn.Conv2d(shape.channels, 9 * self.groups, 1)
        self.infer = draw.chance()

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        kernel = self.kernel(x).view(b, self.groups, 9, h, w).unsqueeze(2)
        each = -1 if self.infer else self.per_group
        patches = functional.unfold(x, 3, padding=1).view(b, self.groups, each, 9, h, w)
        return (kernel * patches).sum(dim=3).view(b, c, h, w)

    def reference(self, x: Live, kept: Kept) -> Live:
        kernel = kept.apply(self.kernel, x)
        groups, group = (x.index // self.per_group).unique(return_inverse=True)
        kept.agree(kernel.index, (groups[:, None] * 9 + torch.arange(9)).flatten(), "groups")
        taps = kernel.values.unflatten(1, (len(groups), 9))
        padded = functional.pad(x.values, (1, 1, 1, 1))
        h, w = x.values.shape[2:]
        total = torch.zeros_like(x.values)
        for i in range(3):
            for j in range(3):
                total = total + padded[:, :, i : i + h, j : j + w] * taps[:, group, 3 * i + j]
        return x.map(lambda _: total)


@kind("map", fits=image)
class ConvLSTM(Block):
    """A convolutional cell that runs three steps on the same map."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.hidden = draw.of(4, 6)
        super().__init__(shape.of(self.hidden))
        self.conv = nn.Conv2d(shape.channels + self.hidden, 4 * self.hidden, 3, padding=1)
        self.split = draw.chance()

    def forward(self, x: Tensor) -> Tensor:
        b, _, rows, columns = x.shape
        h = torch.zeros(b, self.hidden, rows, columns, dtype=x.dtype, device=x.device)
        c = torch.zeros_like(h)
        for _ in range(3):
            y = self.conv(torch.cat([x, h], dim=1))
            i, f, o, g = torch.split(y, self.hidden, 1) if self.split else y.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        return h

    def reference(self, x: Live, kept: Kept) -> Live:
        read = kept.of(self.conv.weight, 1)
        index = read[read >= x.size] - x.size
        empty = x.values.new_zeros(len(x.values), len(index), *x.values.shape[2:])
        h = c = Live(empty, index, self.hidden, 1)
        for _ in range(3):
            i, f, o, g = kept.apply(self.conv, cat([x, h])).chunk(4)
            c = merge(lambda p, q, r, s: p.sigmoid() * q + r.sigmoid() * s.tanh(), f, c, i, g)
            h = merge(lambda p, q: p.sigmoid() * q.tanh(), o, c)
        return h


@kind("map", fits=image)
class Warp(Block):
    """A grid that features are sampled at, and a round trip through patches."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.locate = nn.Linear(shape.channels, 6)
        self.style = draw.of("grid", "fold", "roll", "rot90", "nearest")

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "fold":
            y = functional.unfold(x, 3, padding=1)
            return functional.fold(y.tanh(), x.shape[2:], 3, padding=1)
        if self.style == "roll":
            return torch.roll(x, shifts=(1, -1), dims=(2, 3)) + x
        if self.style == "rot90":
            return torch.rot90(x, 2, (2, 3)) - x
        theta = self.locate(x.mean((2, 3))).tanh().view(-1, 2, 3)
        mode = "nearest" if self.style == "nearest" else "bilinear"
        grid = functional.affine_grid(theta, x.size(), align_corners=False)  # type: ignore[arg-type]
        return functional.grid_sample(x, grid, mode=mode, align_corners=False)

    def reference(self, x: Live, kept: Kept) -> Live:
        if self.style in ("fold", "roll", "rot90"):
            return x.map(self)
        pooled = x.map(lambda v: v.mean((2, 3)), -1)
        theta = kept.apply(self.locate, pooled).whole().tanh().view(-1, 2, 3)
        mode = "nearest" if self.style == "nearest" else "bilinear"
        sizes = list(x.values.shape)
        grid = functional.affine_grid(theta, sizes, align_corners=False)
        return x.map(lambda v: functional.grid_sample(v, grid, mode=mode, align_corners=False))
