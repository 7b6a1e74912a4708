"""Small networks as users write them, beyond what the libraries bring."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


class Segmenter(nn.Module):
    """A U-Net: skips are concatenated, transposed convolutions go up."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = block(3, 6), block(6, 9), block(9, 12)
        self.up2 = nn.ConvTranspose2d(12, 9, 2, stride=2)
        self.join2 = block(18, 9)
        self.up1 = nn.ConvTranspose2d(9, 6, 2, stride=2)
        self.join1 = block(12, 6)
        self.head = nn.Conv2d(6, 7, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(functional.max_pool2d(first, 2))
        x = self.up2(self.bottom(functional.max_pool2d(second, 2)))
        x = self.up1(self.join2(torch.cat([x, second], 1)))
        out: Tensor = self.head(self.join1(torch.cat([x, first], 1)))
        return out


def block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels_out), nn.ReLU())


class FaceDetector(nn.Module):
    """As RetinaFace: a pyramid, and on each of its levels heads for boxes, classes and points."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList([block(3, 6, 2), block(6, 8, 2), block(8, 10, 2)])
        self.lateral = nn.ModuleList([nn.Conv2d(c, 8, 1) for c in (6, 8, 10)])
        self.merge = nn.ModuleList([block(8, 8) for _ in range(2)])
        self.context = nn.ModuleList([Context(8) for _ in range(3)])
        self.boxes = nn.ModuleList([nn.Conv2d(8, 2 * 4, 1) for _ in range(3)])
        self.classes = nn.ModuleList([nn.Conv2d(8, 2 * 2, 1) for _ in range(3)])
        self.points = nn.ModuleList([nn.Conv2d(8, 2 * 10, 1) for _ in range(3)])

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        levels = []
        for part, lateral in zip(self.body, self.lateral, strict=True):
            x = part(x)
            levels.append(lateral(x))
        for n in (1, 0):
            upper = functional.interpolate(levels[n + 1], size=levels[n].shape[2:])
            levels[n] = self.merge[n](levels[n] + upper)
        levels = [context(level) for context, level in zip(self.context, levels, strict=True)]

        def flat(heads: nn.ModuleList, size: int) -> list[Tensor]:
            found = [head(x).permute(0, 2, 3, 1) for head, x in zip(heads, levels, strict=True)]
            return [x.reshape(x.shape[0], -1, size) for x in found]

        return {
            "boxes": torch.cat(flat(self.boxes, 4), 1),
            "classes": torch.cat(flat(self.classes, 2), 1).softmax(-1),
            "points": flat(self.points, 10),
        }


class Context(nn.Module):
    """As RetinaFace's SSH: three receptive fields side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.small = nn.Conv2d(channels, half, 3, padding=1)
        self.shared = nn.Conv2d(channels, quarter, 3, padding=1)
        self.medium = nn.Conv2d(quarter, quarter, 3, padding=1)
        self.large1 = nn.Conv2d(quarter, quarter, 3, padding=1)
        self.large2 = nn.Conv2d(quarter, quarter, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        shared = functional.leaky_relu(self.shared(x))
        large = self.large2(functional.leaky_relu(self.large1(shared)))
        return functional.relu(torch.cat([self.small(x), self.medium(shared), large], 1))


class Sentences(nn.Module):
    """Word embeddings, positions, encoder layers with a padding mask, the mean of the words."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 12)
        self.positions = nn.Parameter(torch.zeros(1, 6, 12))
        layer = nn.TransformerEncoderLayer(12, 4, 10, 0.1, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(12)
        self.head = nn.Linear(12, 7)

    def forward(self, words: Tensor, padding: Tensor) -> Tensor:
        x = self.words(words) + self.positions
        x = self.norm(self.encoder(x, src_key_padding_mask=padding))
        kept = (~padding)[:, :, None]
        out: Tensor = self.head((x * kept).sum(1) / kept.sum(1))
        return out


class Translator(nn.Module):
    """``nn.Transformer``: the decoder's cross-attention reads the encoder, causally masked."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 12)
        self.transformer = nn.Transformer(12, 4, 1, 1, 10, batch_first=True)
        self.transformer.encoder.use_nested_tensor = False
        self.head = nn.Linear(12, 7)

    def forward(self, words: Tensor, padding: Tensor) -> Tensor:
        x = self.words(words)
        mask = torch.ones(4, 4, dtype=torch.bool).triu(1)
        out: Tensor = self.head(
            self.transformer(x, x[:, :4].flip(1), tgt_mask=mask, src_key_padding_mask=padding)
        )
        return out


class Gru(nn.Module):
    """A recurrent classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 6)
        self.project = nn.Linear(6, 9)
        self.gru = nn.GRU(9, 8, batch_first=True)
        self.hidden = nn.Linear(8, 10)
        self.head = nn.Linear(10, 7)

    def forward(self, words: Tensor, _padding: Tensor) -> Tensor:
        states, _ = self.gru(torch.relu(self.project(self.words(words))))
        out: Tensor = self.head(torch.relu(self.hidden(states[:, -1])))
        return out


@dataclass
class Found:
    """An output of a user's own class."""

    logits: Tensor
    features: list[Tensor]


class Dataclassed(nn.Module):
    """Its output is a dataclass; the features in it are an output too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = block(3, 8), block(8, 6)
        self.head = nn.Linear(6, 7)

    def forward(self, x: Tensor) -> Found:
        x = self.body(self.stem(x)).mean((2, 3))
        return Found(self.head(x), [x])


class Residual3d(nn.Module):
    """As r3d: residual blocks over time, height and width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(3, 6, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm3d(6), nn.Conv3d(6, 9, 3, 2, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm3d(9), nn.Conv3d(9, 8, 3, padding=1)
        self.shortcut = nn.Conv3d(6, 8, 1, 2)
        self.head = nn.Linear(8, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm1(self.stem(x)))
        y = self.conv2(functional.relu(self.norm2(self.conv1(x))))
        x = functional.relu(y + self.shortcut(x))
        out: Tensor = self.head(functional.adaptive_avg_pool3d(x, 1).flatten(1))
        return out


def waves() -> nn.Module:
    """Convolutions over time: dilated, grouped, depthwise; a pool that flattens positions."""
    return nn.Sequential(
        *(nn.Conv1d(2, 8, 5, stride=2), nn.BatchNorm1d(8), nn.ReLU()),
        *(nn.Conv1d(8, 12, 3, dilation=2, groups=2), nn.GroupNorm(3, 12), nn.PReLU(12)),
        *(nn.Conv1d(12, 12, 3, groups=12), nn.Conv1d(12, 10, 1), nn.Hardswish()),
        *(nn.AdaptiveMaxPool1d(3), nn.Flatten(), nn.Linear(30, 7)),
    )


class Tiny(nn.Module):
    """A residual sum, a gate, a concatenation and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.gate = nn.Conv2d(8, 8, 1)
        self.side = nn.Conv2d(3, 5, 1)
        self.depthwise = nn.Conv2d(13, 26, 3, groups=13)
        self.linear = nn.Linear(26, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn(self.stem(x)))
        y = torch.relu(y + self.block(y))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        y = self.depthwise(torch.cat([y, self.side(x)], 1))
        logits: Tensor = self.linear(y.mean((2, 3)))
        return logits


def tiny() -> tuple[nn.Module, Tensor]:
    """A :class:`Tiny` with weights and statistics of its own, and an input for it."""
    generator = torch.Generator().manual_seed(0)
    model = Tiny().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    model.bn.running_mean.uniform_(-0.5, 0.5, generator=generator)
    model.bn.running_var.uniform_(0.5, 1.5, generator=generator)
    return model, torch.randn(2, 3, 6, 6, generator=generator)
