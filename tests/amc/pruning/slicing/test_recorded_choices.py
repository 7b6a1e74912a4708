"""Choices of one run imposed on another: near-ties fall as they fell before."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from amc.pruning.find_units import find_units
from amc.pruning.slicing.recorded_choices import Recorded, Replayed
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify


def best(x: Tensor) -> tuple[Tensor, Tensor]:
    values, index = x.topk(2)
    return values, index


def ranked(x: Tensor) -> tuple[Tensor, Tensor]:
    values, index = torch.sort(x, 0, descending=True)
    return values, index


def largest(x: Tensor) -> tuple[Tensor, Tensor]:
    values, index = x.view(2, 2).max(1)
    return values, index


def above(x: Tensor) -> Tensor:
    return x[x > 0.5]


def cast(x: Tensor) -> Tensor:
    return x[(x * 2).long().clamp(max=3)]


@pytest.mark.parametrize("function", [best, ranked, largest, above, cast])
def test_near_ties_fall_as_before_and_values_stay_the_second_networks_own(function):
    """The second input is the first with its near-ties turned round."""
    first = torch.tensor([0.5 + 1e-7, 0.5 - 1e-7, 0.2, 0.2 - 1e-7])
    second = torch.tensor([0.5 - 1e-7, 0.5 + 1e-7, 0.2 - 1e-7, 0.2])
    with torch.inference_mode():
        with Recorded() as recorded:
            expected = function(first)
        with Replayed(recorded.choices):
            actual = function(second)
        free = function(second)
    expected, actual, free = (x if isinstance(x, tuple) else (x,) for x in (expected, actual, free))
    assert [x.shape for x in actual] == [x.shape for x in expected]
    for mine, theirs in zip(actual, expected, strict=True):
        if mine.is_floating_point():
            assert torch.isin(mine, second).all()
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
        else:
            assert torch.equal(mine, theirs)
    assert any(
        a.shape != f.shape or not torch.equal(a, f) for a, f in zip(actual, free, strict=True)
    )


def test_among_other_channels_the_second_network_chooses_itself():
    with torch.inference_mode():
        with Recorded() as recorded:
            assert (torch.tensor([1.0, -1.0, 2.0]) > 0).any()
        with Replayed(recorded.choices):
            mask = torch.tensor([-1.0, 2.0]) > 0
    assert mask.tolist() == [False, True]


class Fickle(nn.Module):
    """Turns the sign of its outputs by digits that only rounding decides."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x).relu())
        return torch.where((out * 1e17).long() % 7 > 3, out, -out)


def test_a_proof_makes_the_twins_choices():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Fickle()
    x = torch.randn(64, 5, generator=torch.Generator().manual_seed(1))
    units = find_units(model, x)
    small = slice_model(model, units, [7])
    assert verify(model, small, units, [7], x) < 1e-5
