"""Networks for images as people write them by hand, small: detectors, U-Nets, generators, blocks.

Each states its sizes the way its model does: in attributes, in slices, in views.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import DeformConv2d


def cba(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, **options: int) -> nn.Module:
    """Convolution, BatchNorm, SiLU."""
    padding = options.pop("padding", kernel // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False, **options)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.SiLU())


class C3(nn.Module):
    """YOLOv5's block: a chain of bottlenecks beside a 1x1 convolution."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        c_ = c2 // 2
        self.cv1, self.cv2, self.cv3 = cba(c1, c_, 1), cba(c1, c_, 1), cba(2 * c_, c2, 1)
        self.m = nn.ModuleList(nn.Sequential(cba(c_, c_, 1), cba(c_, c_)) for _ in range(n))
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        for block in self.m:
            y = y + block(y) if self.shortcut else block(y)
        return self.cv3(torch.cat((y, self.cv2(x)), dim=1))


class C2f(nn.Module):
    """YOLOv8's block: what each bottleneck makes is kept."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = True) -> None:
        super().__init__()
        self.c = c2 // 2
        self.cv1, self.cv2 = cba(c1, 2 * self.c, 1), cba((2 + n) * self.c, c2, 1)
        self.m = nn.ModuleList(
            nn.Sequential(cba(self.c, self.c), cba(self.c, self.c)) for _ in range(n)
        )
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).split((self.c, self.c), 1))
        for block in self.m:
            y.append(y[-1] + block(y[-1]) if self.shortcut else block(y[-1]))
        return self.cv2(torch.cat(y, 1))


class SPPF(nn.Module):
    """The same pooling three times, side by side."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = cba(c1, c1 // 2, 1), cba(c1 // 2 * 4, c2, 1)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        y1 = self.m(x)
        y2 = self.m(y1)
        return self.cv2(torch.cat((x, y1, y2, self.m(y2)), 1))


class Yolo(nn.Module):
    """A backbone, two ways through a pyramid, and detections at three scales."""

    def __init__(self, block: type[C3 | C2f], head: nn.Module, width: int = 16) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(
            cba(3, w, 6, 2, padding=2), cba(w, 2 * w, 3, 2), block(2 * w, 2 * w)
        )
        self.p3 = nn.Sequential(cba(2 * w, 4 * w, 3, 2), block(4 * w, 4 * w, 2))
        self.p4 = nn.Sequential(cba(4 * w, 8 * w, 3, 2), block(8 * w, 8 * w, 2))
        self.p5 = nn.Sequential(cba(8 * w, 8 * w, 3, 2), block(8 * w, 8 * w), SPPF(8 * w, 8 * w))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.n4, self.n3 = block(16 * w, 8 * w, 1, False), block(12 * w, 4 * w, 1, False)
        self.d4, self.d5 = cba(4 * w, 4 * w, 3, 2), cba(8 * w, 8 * w, 3, 2)
        self.m4, self.m5 = block(12 * w, 8 * w, 1, False), block(16 * w, 8 * w, 1, False)
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        p3 = self.p3(self.stem(x))
        p4 = self.p4(p3)
        p5 = self.p5(p4)
        n4 = self.n4(torch.cat([self.up(p5), p4], 1))
        n3 = self.n3(torch.cat([self.up(n4), p3], 1))
        m4 = self.m4(torch.cat([self.d4(n3), n4], 1))
        m5 = self.m5(torch.cat([self.d5(m4), p5], 1))
        return self.head([n3, m4, m5])


class AnchorHead(nn.Module):
    """YOLOv5's: boxes relative to anchors, decoded."""

    def __init__(self, channels: tuple[int, ...], nc: int = 8, na: int = 3) -> None:
        super().__init__()
        self.nc, self.no, self.na, self.nl = nc, nc + 5, na, len(channels)
        self.register_buffer("anchors", torch.rand(self.nl, na, 2) * 4 + 1)
        self.m = nn.ModuleList(nn.Conv2d(c, self.no * na, 1) for c in channels)

    def forward(self, x: list[Tensor]) -> Tensor:
        found = []
        for i in range(self.nl):
            y = self.m[i](x[i])
            bs, _, ny, nx = y.shape
            y = y.view(bs, self.na, self.no, ny, nx).permute(0, 1, 3, 4, 2).contiguous()
            rows, columns = torch.meshgrid(torch.arange(ny), torch.arange(nx), indexing="ij")
            grid = torch.stack((columns, rows), 2).expand(1, self.na, ny, nx, 2) - 0.5
            xy, wh, conf = y.sigmoid().split((2, 2, self.nc + 1), 4)
            wh = (wh * 2) ** 2 * self.anchors[i].view(1, self.na, 1, 1, 2)
            found.append(
                torch.cat((xy * 2 + grid, wh, conf), 4).view(bs, self.na * nx * ny, self.no)
            )
        return torch.cat(found, 1)


class DistributionHead(nn.Module):
    """YOLOv8's: a distribution over distances, whose mean a fixed convolution takes."""

    def __init__(self, channels: tuple[int, ...], nc: int = 8, reg_max: int = 16) -> None:
        super().__init__()
        self.nc, self.reg_max, self.no = nc, reg_max, nc + reg_max * 4
        c2, c3 = max(16, channels[0] // 4, reg_max * 4), max(channels[0], nc)
        self.cv2 = nn.ModuleList(
            nn.Sequential(cba(c, c2), cba(c2, c2), nn.Conv2d(c2, 4 * reg_max, 1)) for c in channels
        )
        self.cv3 = nn.ModuleList(
            nn.Sequential(cba(c, c3), cba(c3, c3), nn.Conv2d(c3, nc, 1)) for c in channels
        )
        self.dfl = nn.Conv2d(reg_max, 1, 1, bias=False).requires_grad_(False)
        self.dfl.weight.data[:] = torch.arange(reg_max, dtype=torch.float).view(1, reg_max, 1, 1)

    def forward(self, x: list[Tensor]) -> Tensor:
        y = [torch.cat((self.cv2[i](f), self.cv3[i](f)), 1) for i, f in enumerate(x)]
        flat = torch.cat([f.view(f.shape[0], self.no, -1) for f in y], 2)
        box, cls = flat.split((self.reg_max * 4, self.nc), 1)
        b, _, a = box.shape
        box = self.dfl(box.view(b, 4, self.reg_max, a).transpose(2, 1).softmax(1)).view(b, 4, a)
        left, right = box.chunk(2, 1)
        return torch.cat(((left + right) / 2, right - left, cls.sigmoid()), 1)


class AttentionUNet(nn.Module):
    """A U-Net whose skips are weighed by gates (Oktay et al., 2018)."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        ins = (3, *widths[:-1])
        self.down = nn.ModuleList(self._double(a, b) for a, b in zip(ins, widths, strict=True))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, 2) for a, b in pairs)
        self.gate = nn.ModuleList(Gate(b, b, b // 2) for _, b in pairs)
        self.join = nn.ModuleList(self._double(2 * b, b) for _, b in pairs)
        self.out = nn.Conv2d(widths[0], 2, 1)

    @staticmethod
    def _double(a: int, b: int) -> nn.Module:
        return nn.Sequential(
            *(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True)),
            *(nn.Conv2d(b, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True)),
        )

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for number, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if number else x)
            skips.append(x)
        for up, gate, join, skip in zip(self.up, self.gate, self.join, skips[-2::-1], strict=True):
            x = up(x)
            x = join(torch.cat((gate(x, skip), x), dim=1))
        return self.out(x)


class Gate(nn.Module):
    """How much of a skip passes, a number a position."""

    def __init__(self, g: int, x: int, inner: int) -> None:
        super().__init__()
        self.wg = nn.Sequential(nn.Conv2d(g, inner, 1), nn.BatchNorm2d(inner))
        self.wx = nn.Sequential(nn.Conv2d(x, inner, 1), nn.BatchNorm2d(inner))
        self.psi = nn.Sequential(nn.Conv2d(inner, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        return x * self.psi(F.relu(self.wg(g) + self.wx(x)))


class RepBlock(nn.Module):
    """RepVGG's block in training form: 3x3, 1x1 and identity, each with its norm."""

    def __init__(self, a: int, b: int, stride: int = 1) -> None:
        super().__init__()
        self.identity = nn.BatchNorm2d(a) if a == b and stride == 1 else None
        conv3, conv1 = (nn.Conv2d(a, b, k, stride, k // 2, bias=False) for k in (3, 1))
        self.dense = nn.Sequential(conv3, nn.BatchNorm2d(b))
        self.point = nn.Sequential(conv1, nn.BatchNorm2d(b))

    def forward(self, x: Tensor) -> Tensor:
        same = 0 if self.identity is None else self.identity(x)
        return F.relu(self.dense(x) + self.point(x) + same)


def repvgg() -> nn.Module:
    """RepVGG before merging."""
    widths = ((3, 16, 2), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1))
    blocks = [RepBlock(*w) for w in widths]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Deformable(nn.Module):
    """Deformable convolutions (v2, with a mask) in a small classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = cba(3, 16, 3, 2)
        self.offset = nn.ModuleList(nn.Conv2d(c, 27, 3, padding=1) for c in (16, 32))
        self.deform = nn.ModuleList(
            DeformConv2d(a, b, 3, padding=1) for a, b in ((16, 32), (32, 64))
        )
        self.norm = nn.ModuleList(nn.BatchNorm2d(c) for c in (32, 64))
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for offset, deform, norm in zip(self.offset, self.deform, self.norm, strict=True):
            o1, o2, mask = torch.chunk(offset(x), 3, dim=1)
            x = F.relu(norm(deform(x, torch.cat((o1, o2), dim=1), mask.sigmoid())))
            x = F.max_pool2d(x, 2)
        return self.head(x.mean((2, 3)))


class TimeBlock(nn.Module):
    """A residual block of a diffusion model: the time step scales and shifts its norm."""

    def __init__(self, a: int, b: int, time: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, a), nn.Conv2d(a, b, 3, padding=1)
        self.emb = nn.Linear(time, 2 * b)
        self.norm2, self.conv2 = nn.GroupNorm(8, b), nn.Conv2d(b, b, 3, padding=1)
        self.skip = nn.Conv2d(a, b, 1) if a != b else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.emb(F.silu(emb))[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.skip(x) + self.conv2(F.silu(h))


class SpatialAttention(nn.Module):
    """Attention over positions with heads, as in OpenAI's diffusion models."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.num_heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv, self.proj = nn.Conv1d(channels, channels * 3, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, c, *spatial = x.shape
        x = x.reshape(b, c, -1)
        qkv = self.qkv(self.norm(x))
        bs, width, length = qkv.shape
        ch = width // (3 * self.num_heads)
        q, k, v = qkv.reshape(bs * self.num_heads, ch * 3, length).split(ch, dim=1)
        scale = 1 / math.sqrt(math.sqrt(ch))
        weight = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), dim=-1)
        h = torch.einsum("bts,bcs->bct", weight, v).reshape(bs, -1, length)
        return (x + self.proj(h)).reshape(b, c, *spatial)


class DiffusionUNet(nn.Module):
    """The U-Net of a diffusion model: (N, 3, H, W) and (N,) time steps to (N, 3, H, W)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        w, self.time_dim = width, 4 * width
        self.width = width
        self.time = nn.Sequential(nn.Linear(w, 4 * w), nn.SiLU(), nn.Linear(4 * w, 4 * w))
        self.stem = nn.Conv2d(3, w, 3, padding=1)
        self.d1, self.d2 = TimeBlock(w, w, 4 * w), TimeBlock(w, 2 * w, 4 * w)
        self.down = nn.Conv2d(w, w, 3, 2, 1)
        self.mid1, self.attn, self.mid2 = (
            *(TimeBlock(2 * w, 2 * w, 4 * w), SpatialAttention(2 * w)),
            TimeBlock(2 * w, 2 * w, 4 * w),
        )
        self.u2, self.u1 = TimeBlock(4 * w, w, 4 * w), TimeBlock(2 * w, w, 4 * w)
        self.up = nn.Conv2d(w, w, 3, padding=1)
        self.norm, self.out = nn.GroupNorm(8, w), nn.Conv2d(w, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        half = self.width // 2
        freqs = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32) / half)
        args = t[:, None].float() * freqs[None]
        emb = self.time(torch.cat([torch.cos(args), torch.sin(args)], dim=-1))
        h1 = self.d1(self.stem(x), emb)
        h2 = self.d2(self.down(h1), emb)
        h = self.mid2(self.attn(self.mid1(h2, emb)), emb)
        h = self.u2(torch.cat([h, h2], dim=1), emb)
        h = self.up(F.interpolate(h, scale_factor=2, mode="nearest"))
        h = self.u1(torch.cat([h, h1], dim=1), emb)
        return self.out(F.silu(self.norm(h)))
