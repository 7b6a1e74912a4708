"""Where inputs or weights hide mistakes: a right slice passes, and any wrong one is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from amc.errors import VerificationError
from amc.pruning.find_units import find_units
from amc.pruning.slicing.lively import enliven_, is_dull, lively_copy
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify
from amc.tracing.inputs import Inputs
from amc.tracing.units import Units

NOISE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def convolutions() -> nn.Sequential:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 10, 3, padding=1), nn.BatchNorm2d(10), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 7)),
    )


def trained(change: Callable[[nn.Sequential], None] = lambda _: None) -> nn.Sequential:
    """As training leaves it, with norms of their own; then changed."""
    model = convolutions().eval()
    enliven_(model, NOISE, torch.Generator().manual_seed(2))
    assert not is_dull(model)
    with torch.no_grad():
        change(model)
    return model


def drown(model: nn.Sequential) -> None:
    for norm in (model[1], model[4]):
        norm.running_var.mul_(1e10)


def kill(model: nn.Sequential) -> None:
    model[1].bias.sub_(100)
    model[4].bias.sub_(100)


class Words(nn.Module):
    """An encoder of words without shifts, whose tokens would all be one."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 12)
        layer = nn.TransformerEncoderLayer(12, 3, 8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(12, 5)

    def forward(self, words: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(self.words(words)).mean(1))
        return out


KINDS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "zeros": (trained, torch.zeros_like(NOISE)),
    "ones": (trained, torch.ones_like(NOISE)),
    "1e-30": (trained, 1e-30 * NOISE),
    "untrained norms": (convolutions, NOISE),
    "large statistics": (partial(trained, drown), NOISE),
    "dead ReLUs": (partial(trained, kill), NOISE),
    "empty head": (partial(trained, lambda m: m[-1].weight.zero_()), NOISE),
    "empty branch": (
        lambda: resnet.ResNet(resnet.BasicBlock, [1] * 4, num_classes=5, zero_init_residual=True),
        IMAGE,
    ),
    "layer scale": (
        lambda: ConvNeXt([CNBlockConfig(8, 12, 1), CNBlockConfig(12, None, 1)], num_classes=5),
        IMAGE,
    ),
    "layer scale in attention": (
        lambda: timm.create_model(
            "cait_xxs24_224", img_size=32, depth=1, embed_dim=12, num_heads=3, num_classes=5
        ),
        IMAGE,
    ),
    "one word": (Words, torch.zeros(2, 6, dtype=torch.int64)),
}


def built(kind: str) -> tuple[nn.Module, Tensor, Units]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = KINDS[kind][0]().eval()
    return model, KINDS[kind][1], find_units(model, KINDS[kind][1])


def wrong(units: Units, most: int = 14) -> Iterator[Units]:
    """With one slot of one unit shifted by a group; a sample of them."""
    places = [
        (number, position)
        for number, unit in enumerate(units)
        for position, slot in enumerate(unit.slots)
        if slot.purpose not in ("size", "count", "statistic")
    ]
    for place in np.unique(np.linspace(0, len(places) - 1, most, dtype=int)):
        number, position = places[place]
        unit = units[number]
        slot = unit.slots[position]
        shifted = replace(slot, index=np.roll(slot.index, 1, axis=0))
        slots = (*unit.slots[:position], shifted, *unit.slots[position + 1 :])
        items = [*units]
        items[number] = replace(unit, slots=slots)
        yield replace(units, items=tuple(items))


@pytest.mark.parametrize("kind", KINDS)
def test_right_slices_pass_and_wrong_ones_are_refused(kind):
    model, x, units = built(kind)
    assert [f.reason for f in units.frozen if f.reason != "network output"] == []
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    widths = [max(1, unit.width // 2) for unit in units]
    assert verify(model, slice_model(model, units, widths), units, widths, x) < 1e-5
    for other in wrong(units):
        with pytest.raises(VerificationError):
            verify(model, slice_model(model, other, widths), other, widths, x)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("kind", ["zeros", "large statistics", "dead ReLUs", "empty head"])
def test_a_right_slice_with_other_weights_is_refused(kind):
    """Its layer's columns in another order, and one other weight, which the signal would hide."""
    model, x, units = built(kind)
    widths = [unit.width // 2 for unit in units]
    small = slice_model(model, units, widths)
    for change in (lambda w: w.roll(1, 1), lambda w: w + 0.1 * (w == w.max())):
        spoilt = copy.deepcopy(small)
        layer = spoilt[3] if kind != "empty head" else spoilt[0]
        with torch.no_grad():
            layer.weight.copy_(change(layer.weight))
        assert not torch.equal(
            layer.weight, small.get_submodule("3" if layer is spoilt[3] else "0").weight
        )
        with pytest.raises(VerificationError):
            verify(model, spoilt, units, widths, x)


def test_lively_weights_show_what_untrained_ones_hide():
    model = convolutions()
    assert is_dull(model)
    first, second = (lively_copy(model, Inputs(NOISE), seed=0) for _ in range(2))
    assert first is not None
    assert second is not None
    assert not is_dull(first)
    for one, two in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(first[0].weight, model[0].weight)  # what is lively stays
    assert not torch.equal(lively_copy(model, Inputs(NOISE), seed=1)[0].weight, first[0].weight)
    y = first[:2](NOISE)  # the norm has the statistics of its inputs
    torch.testing.assert_close(y.mean((0, 2, 3)), first[1].bias, atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3), correction=0), first[1].weight, atol=1e-3, rtol=0)


def test_a_network_that_lively_weights_break_has_no_lively_copy():
    class Bound(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if not bool((self.bias == 0).all()):
                raise ValueError("no bias allowed")
            return super().forward(x)

    def hidden(**options: Any) -> nn.Module:
        model = nn.Sequential(Bound(5, 6, **options), nn.ReLU(), nn.Linear(6, 3))
        nn.init.zeros_(model[0].bias)
        return model.eval()

    model, x = hidden(), torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert lively_copy(model, Inputs(x)) is None
    units = find_units(model, x)  # proven with its own weights
    assert [unit.width for unit in units] == [6]
