"""Parts of networks for images, as their papers' code writes them: convolutions and norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .blocks import Block, Draw, Shape, image, kind, width
from .live import Kept, Live, add, cat


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
