"""Small networks for 32-pixel images that train in a minute: plain, without BatchNorm, residual.

Built by name, ``benchmarks/small_networks.py:plain``, as a user's own would be.
"""

from __future__ import annotations

from torch import Tensor, nn

from amc.models.architectures import BasicBlock, kaiming_

_STAGES = ((16, 1), (24, 2), (32, 2), (48, 2))
"""Channels and stride of each convolution."""


def plain(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Four convolutions with BatchNorm."""
    return _chain(num_classes, in_channels, norm=True)


def bare(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """Four convolutions without BatchNorm."""
    return _chain(num_classes, in_channels, norm=False)


def residual(num_classes: int = 10, in_channels: int = 3) -> nn.Module:
    """A convolution and three residual blocks."""
    return Residual(num_classes, in_channels)


def _chain(num_classes: int, in_channels: int, *, norm: bool) -> nn.Module:
    layers: list[nn.Module] = []
    inputs = in_channels
    for planes, stride in _STAGES:
        layers.append(nn.Conv2d(inputs, planes, 3, stride, padding=1, bias=not norm))
        layers += [nn.BatchNorm2d(planes)] if norm else []
        layers.append(nn.ReLU(inplace=True))
        inputs = planes
    model = nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, num_classes)
    )
    kaiming_(model)
    return model


class Residual(nn.Module):
    """A stem and three blocks with 1x1 convolutions on the shortcuts."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, 16, 3, 2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.blocks = nn.Sequential(
            BasicBlock(16, 16, 1, "B"), BasicBlock(16, 32, 2, "B"), BasicBlock(32, 48, 2, "B")
        )
        self.head = nn.Linear(48, num_classes)
        kaiming_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W)."""
        logits: Tensor = self.head(self.blocks(self.stem(x)).mean((2, 3)))
        return logits
