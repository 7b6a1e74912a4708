"""What later methods read: blocks that merge after pruning, and numbers that only look alike."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from amc.pruning.find_units import find_units, read_units
from amc.pruning.slicing.attributes import stale
from amc.pruning.slicing.slice import attribute_sizes, slice_model
from amc.pruning.slicing.verification import verify


class Rep(nn.Module):
    """A RepVGG block: a convolution, a 1x1 and an identity, which its own method merges."""

    def __init__(self, i: int, o: int, groups: int = 1) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.groups = i, o, groups
        self.dense = nn.Conv2d(i, o, 3, 1, 1, bias=False, groups=groups)
        self.norm = nn.BatchNorm2d(o)
        self.point = nn.Conv2d(i, o, 1, bias=False, groups=groups)
        self.point_norm = nn.BatchNorm2d(o)
        self.identity = nn.BatchNorm2d(i) if i == o else None
        self.merged: nn.Conv2d | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.merged is not None:
            return self.merged(x).relu()
        y = self.norm(self.dense(x)) + self.point_norm(self.point(x))
        return (y if self.identity is None else y + self.identity(x)).relu()

    def merge(self) -> None:
        kernel, bias = fused(self.dense.weight, self.norm)
        point, shift = fused(functional.pad(self.point.weight, [1] * 4), self.point_norm)
        kernel, bias = kernel + point, bias + shift
        if self.identity is not None:
            own = self.in_channels // self.groups
            eye = torch.zeros(self.in_channels, own, 3, 3)
            for n in range(self.in_channels):
                eye[n, n % own, 1, 1] = 1
            eye, shift = fused(eye, self.identity)
            kernel, bias = kernel + eye, bias + shift
        self.merged = nn.Conv2d(self.in_channels, self.out_channels, 3, 1, 1, groups=self.groups)
        self.merged.weight.data, self.merged.bias.data = kernel.detach(), bias.detach()


def fused(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale


def randomise_norms(model: nn.Module) -> nn.Module:
    """Statistics as of a trained network: a merge that mixes up its channels shows."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def halved(model: nn.Module, x: Tensor) -> nn.Module:
    units = read_units(model, x)
    widths = [max(1, unit.width // 2) for unit in units]
    small = slice_model(model, units, widths)
    assert verify(model, small, units, widths, x) < 1e-4
    return small


def assert_close(actual: Tensor, expected: Tensor) -> None:
    assert float((actual - expected).abs().max()) < 1e-4 * float(expected.abs().max())


def image(size: int) -> Tensor:
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("groups", [1, 4, 16])
def test_blocks_merge_after_pruning(groups):
    torch.manual_seed(0)
    blocks = [Rep(3, 16), Rep(16, 16, groups), Rep(16, 24), Rep(24, 24), Rep(24, 24)]
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5))
    model = randomise_norms(nn.Sequential(*blocks, *head))
    small = halved(model, image(9))
    with torch.no_grad():
        expected = small(image(9))
        for block in small[:5]:
            assert block.dense.weight.shape[0] == block.out_channels
            assert block.dense.weight.shape[1] * block.groups == block.in_channels
            block.merge()
        assert_close(small(image(9)), expected)
    assert [block.out_channels for block in model[:5]] == [16, 16, 24, 24, 24]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("repvgg_a0", 32),
        pytest.param("mobileone_s0", 32, marks=pytest.mark.slow),
        ("repvit_m0_9", 64),
        ("fastvit_t8", 64),
    ],
)
def test_timms_blocks_merge_after_pruning(name, size):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = randomise_norms(timm.create_model(name, num_classes=5))
    small = halved(model, image(size))
    with torch.no_grad():
        expected = small(image(size))
        merged = timm.utils.reparameterize_model(small)
        assert_close(merged(image(size)), expected)
    assert len(list(merged.modules())) < len(list(small.modules()))


class Block(nn.Module):
    """Layers under names, attributes beside them; ``forward`` runs the layers in turn."""

    def __init__(self, *layers: nn.Module, **attributes: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def conv(i: int, o: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, 1, **options)


def sliced_attributes(block: Block, *names: str) -> tuple[dict[str, Any], list[str]]:
    """Attributes of a block between two layers, at widths 7, 6, 5, ..., and what is stale."""
    model = nn.Sequential(conv(3, 8), block, conv(8, 2))
    units = find_units(model, image(4))
    widths = [7 - n for n in range(len(units))]
    small = slice_model(model, units, widths)
    assert verify(model, small, units, widths, image(4)) < 1e-5
    return {name: getattr(small[1], name) for name in names}, stale(units, widths)


def test_names_decide_between_equal_widths():
    block = Block(
        *(conv(8, 8), conv(8, 8), conv(8, 8)),
        in_channels=8,
        outplanes=8,
        mid_chs=8,
        hiddenDim=8,
        channels=8,
    )
    found, old = sliced_attributes(block, "in_channels", "outplanes")
    assert found == {"in_channels": 7, "outplanes": 4}
    assert old == ["1.mid_chs=8", "1.hiddenDim=8", "1.channels=8"]  # 6 or 5; 7 or 4


def test_a_hidden_width_and_lists_follow_where_they_are_clear():
    block = Block(conv(8, 12), conv(12, 8), hidden_size=12, dims=[8, 12, 9], sizes=(12,))
    found, old = sliced_attributes(block, "hidden_size", "dims", "sizes")
    assert found == {"hidden_size": 6, "dims": [8, 6, 9], "sizes": (12,)}
    assert old == ["1.dims.0=8"]  # 7 or 5
    stages = Block(nn.Sequential(conv(8, 8), conv(8, 12)), nn.Sequential(conv(12, 12), conv(12, 8)))
    stages.channels = [12, 8]
    found, old = sliced_attributes(stages, "channels")
    assert (found, old) == ({"channels": [5, 3]}, [])


def test_numbers_of_something_else_stay():
    attributes = dict.fromkeys(
        ("image_size", "num_classes", "num_layers", "n", "kernel_dim", "size", "num_heads"), 12
    )
    block = Block(conv(8, 12), conv(12, 8), **attributes)
    assert sliced_attributes(block, *attributes) == (attributes, [])


class Scaled(Block):
    """Reads an attribute for its value, and checks another."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.in_channels:
            raise ValueError(x.shape)
        return self.layers(x) * self.dim**-0.5


def test_what_the_forward_reads_is_left_to_it():
    block = Scaled(conv(8, 12), conv(12, 8), dim=12, in_channels=8)
    found, old = sliced_attributes(block, "dim", "in_channels")
    assert found == {"dim": 12, "in_channels": 7}
    assert old == []
    assert "dim" not in vars(Scaled)


def test_a_plan_holds_followed_attributes_too():
    model = nn.Sequential(Rep(3, 16), conv(16, 2))
    units = read_units(model, image(4))
    assert attribute_sizes(units, [5]) == {"0.out_channels": 5}
    assert attribute_sizes(units, [16]) == {}
