"""Deformable convolutions are pruned like convolutions: hand counts, and proven random plans."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d, deform_conv2d

from amc.cost.table import CostTable
from amc.pruning.find_units import find_units
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify


class Deformable(nn.Module):
    """Offsets, and masks in version 2, from the same input."""

    def __init__(self, i: int, o: int, groups: int = 1, offset_groups: int = 1, v2: bool = True):
        super().__init__()
        self.offset = nn.Conv2d(i, offset_groups * 18, 3, padding=1)
        self.mask = nn.Conv2d(i, offset_groups * 9, 3, padding=1) if v2 else None
        self.conv = DeformConv2d(i, o, 3, padding=1, groups=groups, bias=v2)

    def forward(self, x: Tensor) -> Tensor:
        mask = None if self.mask is None else self.mask(x).sigmoid()
        return self.conv(x, self.offset(x), mask)


class OwnDeformable(nn.Module):
    """One layer for offsets and masks, and a weight of its own, as in mmcv."""

    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(o, i, 3, 3) / 9)
        self.offset = nn.Conv2d(i, 27, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first, second, mask = self.offset(x).chunk(3, 1)
        offset = torch.cat((first, second), 1)
        return deform_conv2d(x, offset, self.weight, padding=1, mask=mask.sigmoid())


def network(middle: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    ends = (nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*ends, middle, nn.ReLU(), nn.Conv2d(24, 5, 1), nn.AdaptiveAvgPool2d(1))


OTHERS = (16 * 27 + 24 * 5) * 64
"""MACs of the layers at the ends, on 8 x 8 positions."""

CASES = {
    "version 2": (lambda: Deformable(16, 24), (24 + 18 + 9) * 16 * 9, 16, 24),
    "version 1": (lambda: Deformable(16, 24, v2=False), (24 + 18) * 16 * 9, 16, 24),
    "groups": (lambda: Deformable(16, 24, groups=4), (24 * 4 + 27 * 16) * 9, 4, 6),
    "offset groups": (lambda: Deformable(16, 24, offset_groups=2), (24 + 54) * 16 * 9, 8, 24),
    "both": (lambda: Deformable(16, 24, 4, 2), (24 * 4 + 54 * 16) * 9, 4, 6),
    "depthwise": (
        lambda: nn.Sequential(Deformable(16, 16, groups=16), nn.Conv2d(16, 24, 1)),
        (16 + 27 * 16) * 9 + 16 * 24,
        16,
        24,
    ),
    "own layer": (lambda: OwnDeformable(16, 24), (24 + 27) * 16 * 9, 16, 24),
}


@pytest.mark.parametrize(("make", "macs", "first", "second"), CASES.values(), ids=CASES)
def test_pruned_like_a_convolution_at_exact_cost(make, macs, first, second):
    model = network(make())
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    units = find_units(model, x)
    cost = CostTable(units)
    assert [unit.width for unit in units] == [first, second]
    assert cost.dense("macs") == OTHERS + 64 * macs
    frozen = {f.name.rpartition(".")[2]: f.reason for f in units.frozen}
    assert frozen["offset"].startswith("one for each position in the kernel of torchvision.deform")
    rng = np.random.default_rng(0)
    for _ in range(2):
        widths = [int(rng.choice(unit.widths)) for unit in units]
        small = slice_model(model, units, widths)
        assert verify(model, small, units, widths, x) < 1e-5
        assert cost.params(widths) == sum(p.numel() for p in small.parameters())
        again = CostTable(find_units(small, x)) if min(widths) > 1 else None
        assert again is None or again.dense("macs") == cost.macs(widths)
        for layer in small.modules():
            if isinstance(layer, DeformConv2d):
                stated = (layer.out_channels, layer.in_channels // layer.groups, 3, 3)
                assert stated == tuple(layer.weight.shape)
                assert prod(layer.weight.shape) > 0
