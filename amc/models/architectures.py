"""Our own small networks: CIFAR ResNets, VGG with BatchNorm, MobileNetV2, and a demo CNN.

Nothing in a forward depends on a number of channels, so that channels can be removed. The only
place where one is needed, the zero-padded shortcut, keeps it in attributes of a module.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from amc.errors import ModelError

Shortcut = Literal["A", "B"]


class PadShortcut(nn.Module):
    """Parameter-free shortcut (option A of He et al. 2015): subsample, then pad channels by zeros.

    (N, C, H, W) to (N, front + C + back, H / stride, W / stride).
    """

    def __init__(self, stride: int, front: int, back: int) -> None:
        super().__init__()
        self.stride = stride
        self.front = front
        self.back = back

    def forward(self, x: Tensor) -> Tensor:
        """Subsample and pad ``x``."""
        x = x[:, :, :: self.stride, :: self.stride]
        return functional.pad(x, (0, 0, 0, 0, self.front, self.back))

    def extra_repr(self) -> str:
        """Show the three numbers in ``print(model)``."""
        return f"stride={self.stride}, front={self.front}, back={self.back}"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, ReLU after the sum."""

    def __init__(self, inputs: int, planes: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != planes:
            if shortcut == "A":
                more = planes - inputs
                self.shortcut = PadShortcut(stride, more // 2, more - more // 2)
            else:
                self.shortcut = nn.Sequential(
                    nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
                )

    def forward(self, x: Tensor) -> Tensor:
        """Transform a (N, inputs, H, W) batch."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """CIFAR ResNet of depth 6 n + 2: three stages of n blocks, 16, 32 and 64 channels.

    He et al., Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2. Where the
    shortcut pads, other ``widths`` of the stages must not fall.
    """

    def __init__(
        self,
        depth: int,
        num_classes: int = 10,
        shortcut: Shortcut = "A",
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64),
    ) -> None:
        super().__init__()
        if shortcut not in ("A", "B"):
            raise ModelError(f"shortcut {shortcut!r}: must be 'A' (zero padding) or 'B' (1x1 conv)")
        if len(widths) != 3 or min(widths) < 1 or (shortcut == "A" and sorted(widths) != [*widths]):
            raise ModelError(f"widths {widths!r}: must be three, none smaller than the one before")
        first, second, third = widths
        self.conv1 = nn.Conv2d(in_channels, first, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        blocks = (depth - 2) // 6
        self.layer1 = _stage(first, first, blocks, 1, shortcut)
        self.layer2 = _stage(first, second, blocks, 2, shortcut)
        self.layer3 = _stage(second, third, blocks, 2, shortcut)
        self.linear = nn.Linear(third, num_classes)
        kaiming_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(x.mean((2, 3)))
        return logits


def _stage(inputs: int, planes: int, blocks: int, stride: int, shortcut: Shortcut) -> nn.Sequential:
    first = BasicBlock(inputs, planes, stride, shortcut)
    return nn.Sequential(
        first, *(BasicBlock(planes, planes, 1, shortcut) for _ in range(blocks - 1))
    )


VGG_STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions in each of the five stages, by depth (Simonyan and Zisserman 2014, table 1)."""


class VGG(nn.Module):
    """VGG with BatchNorm for 32-pixel images: one linear layer instead of the three of ImageNet."""

    def __init__(self, depth: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for convs, planes in zip(VGG_STAGES[depth], (64, 128, 256, 512, 512), strict=True):
            for _ in range(convs):
                layers.append(nn.Conv2d(inputs, planes, 3, padding=1, bias=False))
                layers.append(nn.BatchNorm2d(planes))
                layers.append(nn.ReLU(inplace=True))
                inputs = planes
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, num_classes)
        kaiming_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W), H and W at least 32."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class InvertedResidual(nn.Module):
    """Expand by a 1x1, filter by a depthwise 3x3, project linearly; add the input where it fits."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_conv_bn_relu6(inputs, hidden, 1))
        layers.append(_conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden))
        layers.append(nn.Conv2d(hidden, outputs, 1, bias=False))
        layers.append(nn.BatchNorm2d(outputs))
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Transform a (N, inputs, H, W) batch."""
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


def _conv_bn_relu6(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    padding = kernel // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU6(inplace=True),
    )


MOBILENET_V2_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),  # stride 2 on ImageNet
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks, stride of the first block (Sandler et al. 2018, table 2)."""


class MobileNetV2(nn.Module):
    """MobileNetV2 at width 1.0 for 32-pixel images: stem and second stage keep the resolution."""

    def __init__(self, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn_relu6(in_channels, 32, 3)]
        inputs = 32
        for expansion, planes, blocks, stride in MOBILENET_V2_STAGES:
            for index in range(blocks):
                step = stride if index == 0 else 1
                layers.append(InvertedResidual(inputs, planes, step, expansion))
                inputs = planes
        layers.append(_conv_bn_relu6(inputs, 1280, 1))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(1280, num_classes)
        kaiming_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W)."""
        logits: Tensor = self.classifier(self.features(x).mean((2, 3)))
        return logits


class SmallCNN(nn.Module):
    """Five convolutions with one residual sum, for the 8x8 digits: it trains in seconds."""

    def __init__(self, num_classes: int = 10, in_channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.conv2 = nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.block = BasicBlock(64, 64, 1, "A")
        self.conv3 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(64)
        self.linear = nn.Linear(64, num_classes)
        kaiming_(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, num_classes) of images (N, in_channels, H, W)."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.relu(self.bn2(self.conv2(x)))
        x = functional.relu(self.bn3(self.conv3(self.block(x))))
        logits: Tensor = self.linear(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))
        return logits


def kaiming_(model: nn.Module) -> None:
    """Initialise for ReLU networks in place (He et al. 2015, arXiv 1502.01852)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    **{f"resnet{depth}": partial(ResNet, depth) for depth in (20, 32, 44, 56, 110)},
    **{f"vgg{depth}_bn": partial(VGG, depth) for depth in VGG_STAGES},
    "mobilenet_v2": MobileNetV2,
    "smallcnn": SmallCNN,
}
"""Factories by name. All take ``num_classes`` and ``in_channels``; the ResNets ``shortcut`` and
``widths`` too."""
