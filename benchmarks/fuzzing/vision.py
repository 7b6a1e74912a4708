"""Parts of networks for images, as their papers' code writes them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import Block, Draw, Shape, image, kind, width
from .live import Kept, Live, add, cat, merge


def whole(values: Tensor, dim: int = 1) -> Live:
    """An activation of which nothing is ever removed."""
    size = values.shape[dim]
    return Live(values, torch.arange(size), size, dim)


@kind("map", fits=image)
class Blur(Block):
    """A fixed kernel for each channel, repeated as often as there are channels (BlurPool)."""

    kernel: Tensor

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.style = draw.of("repeat", "expand", "stored", "count", "weight")
        self.channels = shape.channels
        row = torch.tensor([1.0, 2.0, 1.0])
        kernel = (row[:, None] * row / 16)[None, None]
        if self.style == "stored":
            kernel = kernel.repeat(self.channels, 1, 1, 1)
        self.register_buffer("kernel", kernel)
        self.weight = nn.Parameter(torch.randn(self.channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "repeat":
            kernel = self.kernel.repeat(x.shape[1], 1, 1, 1)
        elif self.style == "expand":
            kernel = self.kernel.expand(x.size(1), 1, 3, 3)
        elif self.style == "count":
            return functional.conv2d(
                x, self.kernel.repeat(self.channels, 1, 1, 1), padding=1, groups=self.channels
            )
        else:
            kernel = self.kernel if self.style == "stored" else self.weight
        return functional.conv2d(x, kernel, padding=1, groups=x.shape[1])

    def reference(self, x: Live, kept: Kept) -> Live:
        stored = {"stored": self.kernel, "weight": self.weight}.get(self.style)
        if stored is None:
            kernel = self.kernel.expand(len(x.index), 1, 3, 3)
        else:
            kernel = kept.meet(x, stored, 0)

        def blurred(v: Tensor) -> Tensor:
            parts = [
                functional.conv2d(v[:, n : n + 1], kernel[n : n + 1], padding=1)
                for n in range(v.shape[1])
            ]
            return torch.cat(parts, 1)

        return x.map(blurred)


@kind("map", fits=image)
class Coordinates(Block):
    """CoordConv: positions, or the mean over channels, as more channels."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.style = draw.of("coordinates", "mean", "ones", "deviation")
        extra = 2 if self.style == "coordinates" else 1
        out = width(draw)
        super().__init__(shape.of(out))
        self.conv = nn.Conv2d(shape.channels + extra, out, 3, padding=1)

    def more(self, x: Tensor) -> Tensor:
        """The channels that are put behind those of ``x``."""
        b, _, h, w = x.shape
        if self.style == "coordinates":
            rows = torch.linspace(-1, 1, h, dtype=x.dtype).view(1, 1, h, 1).expand(b, 1, h, w)
            columns = torch.linspace(-1, 1, w, dtype=x.dtype).view(1, 1, 1, w).expand(b, 1, h, w)
            return torch.cat([rows, columns], dim=1)
        if self.style == "ones":
            return torch.ones(b, 1, h, w, dtype=x.dtype, device=x.device)
        if self.style == "deviation":  # of the batch, as in progressive GANs
            deviation = x.var(0, unbiased=False).add(1e-8).sqrt().mean()
            return deviation.view(1, 1, 1, 1).expand(b, 1, h, w)
        return x.mean(1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.conv(torch.cat([x, self.more(x)], 1)))

    def reference(self, x: Live, kept: Kept) -> Live:
        joined = cat([x, whole(self.more(x.values))])
        return kept.apply(self.conv, joined).map(torch.relu)


@kind("map", fits=image)
class ConvNeXt(Block):
    """Depthwise, LayerNorm and linear layers with channels last, response norm, layer scale."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        c, hidden = shape.channels, width(draw)
        super().__init__(shape)
        self.deep = nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.norm = nn.LayerNorm(c)
        self.up, self.down = nn.Linear(c, hidden), nn.Linear(hidden, c)
        self.response = draw.chance()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, hidden))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, hidden))
        self.scale = nn.Parameter(torch.full((c,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        y = functional.gelu(self.up(y))
        if self.response:  # ConvNeXt V2
            size = torch.norm(y, p=2, dim=(1, 2), keepdim=True)
            share = size / (size.mean(dim=-1, keepdim=True) + 1e-6)
            y = self.gamma * (y * share) + self.beta + y
        y = self.scale * self.down(y)
        return x + y.permute(0, 3, 1, 2)

    def reference(self, x: Live, kept: Kept) -> Live:
        y = kept.apply(self.norm, kept.apply(self.deep, x).last())
        y = kept.apply(self.up, y).map(functional.gelu)
        if self.response:
            gamma, beta = (kept.meet(y, t, 3) for t in (self.gamma, self.beta))
            size = y.values.square().sum((1, 2), keepdim=True).sqrt()
            share = size / (size.mean(-1, keepdim=True) + 1e-6)
            y = y.map(lambda v: gamma * v * share + beta + v)
        y = kept.apply(self.down, y)
        scale = kept.meet(y, self.scale, 0)
        return add(x, y.map(lambda v: (v * scale).movedim(-1, 1), 1))


@kind("map", fits=lambda s: image(s) and s.channels % 4 == 0)
class Res2Net(Block):
    """Quarters of the channels, each convolved together with the result before it."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        super().__init__(shape)
        self.width = shape.channels // 4
        self.convs = nn.ModuleList(nn.Conv2d(self.width, self.width, 3, padding=1) for _ in "abc")
        self.split = draw.chance()

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.split(x, self.width, 1) if self.split else x.chunk(4, 1)
        out = [parts[0]]
        for i, conv in enumerate(self.convs):
            part = parts[i + 1] if i == 0 else parts[i + 1] + out[-1]
            out.append(functional.relu(conv(part)))
        return torch.cat(out, 1)

    def reference(self, x: Live, kept: Kept) -> Live:
        parts = x.chunk(4)
        out = [parts[0]]
        for i, conv in enumerate(self.convs):
            part = parts[i + 1] if i == 0 else add(parts[i + 1], out[-1])
            out.append(kept.apply(conv, part).map(torch.relu))
        return cat(out)


@kind("map", fits=image)
class Ghost(Block):
    """A few channels, cheap ones made of them, and as many of both as are wanted."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        self.oup = draw.of(4, 6, 7)
        super().__init__(shape.of(self.oup))
        first = -(-self.oup // 2)
        self.primary = nn.Sequential(
            nn.Conv2d(shape.channels, first, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        self.cheap = nn.Conv2d(first, first, 3, padding=1, groups=first)

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x)
        return torch.cat([first, self.cheap(first)], dim=1)[:, : self.oup, :, :]

    def reference(self, x: Live, kept: Kept) -> Live:
        first = kept.apply(self.primary, x)
        return cat([first, kept.apply(self.cheap, first)]).take(0, self.oup)


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
        kernel = kept.apply(self.kernel, x).whole().unflatten(1, (2, 9))
        group = x.index // self.per_group
        padded = functional.pad(x.values, (1, 1, 1, 1))
        h, w = x.values.shape[2:]
        total = torch.zeros_like(x.values)
        for i in range(3):
            for j in range(3):
                total = total + padded[:, :, i : i + h, j : j + w] * kernel[:, group, 3 * i + j]
        return x.map(lambda _: total)


@kind("map", fits=image)
class FrozenNorm(Block):
    """BatchNorm as four buffers, or by F.batch_norm with tensors of one's own."""

    mean: Tensor
    var: Tensor
    gain: Tensor
    shift: Tensor

    def __init__(self, draw: Draw, shape: Shape) -> None:
        out = width(draw)
        super().__init__(shape.of(out))
        self.conv = nn.Conv2d(shape.channels, out, 3, padding=1, bias=False)
        for name in ("mean", "gain", "shift"):
            self.register_buffer(name, torch.randn(out))
        self.register_buffer("var", torch.rand(out) + 0.5)
        self.style = draw.of("buffers", "functional", "group")

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.style == "functional":
            return functional.batch_norm(y, self.mean, self.var, self.gain, self.shift)
        if self.style == "group":
            return functional.group_norm(y, 1, self.gain, self.shift)
        scale = (self.gain * (self.var + 1e-5).rsqrt()).reshape(1, -1, 1, 1)
        return y * scale + (self.shift - self.mean * scale.flatten()).view(1, -1, 1, 1)

    def reference(self, x: Live, kept: Kept) -> Live:
        y = kept.apply(self.conv, x)
        gain, shift = kept.vector(y, self.gain), kept.vector(y, self.shift)
        if self.style == "group":
            v = y.values - y.values.mean((1, 2, 3), keepdim=True)
            v = v / (v.square().mean((1, 2, 3), keepdim=True) + 1e-5).sqrt()
            return y.map(lambda _: v * gain + shift)
        mean, var = kept.vector(y, self.mean), kept.vector(y, self.var)
        return y.map(lambda v: (v - mean) / (var + 1e-5).sqrt() * gain + shift)


@kind("map", fits=image)
class RepVGG(Block):
    """Three branches that can be merged: 3x3, 1x1 and, where it fits, a norm alone."""

    def __init__(self, draw: Draw, shape: Shape) -> None:
        out = shape.channels if draw.chance(0.6) else width(draw)
        super().__init__(shape.of(out))
        self.wide = nn.Sequential(
            nn.Conv2d(shape.channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out)
        )
        self.thin = nn.Sequential(nn.Conv2d(shape.channels, out, 1), nn.BatchNorm2d(out))
        self.bare = nn.BatchNorm2d(out) if out == shape.channels else None

    def forward(self, x: Tensor) -> Tensor:
        bare: Any = 0 if self.bare is None else self.bare(x)
        return functional.relu(self.wide(x) + self.thin(x) + bare)

    def reference(self, x: Live, kept: Kept) -> Live:
        layers = [self.wide, self.thin] + ([] if self.bare is None else [self.bare])
        return add(*(kept.apply(layer, x) for layer in layers)).map(torch.relu)


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
