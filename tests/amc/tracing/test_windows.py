"""Operations that count on how many channels lie side by side: proven at every width."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from amc.pruning.find_units import find_units
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify


class Between(nn.Module):
    """A function between two convolutions of 8 channels."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(2, 3, 6, 6, generator=generator)
        self.before = nn.Conv2d(3, 9, 3)
        self.function = function
        self.after = nn.Conv2d(function(self.before(x)).shape[1], 4, 1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.function(self.before(x)))


@pytest.mark.parametrize(
    ("function", "groups"),
    [
        (lambda x: x[:, ::3], [(0, 1, 2), (3, 4, 5), (6, 7, 8)]),
        (lambda x: x[:, 1::3], [(0, 1, 2), (3, 4, 5), (6, 7, 8)]),
        # Of the last run, which is shorter, nothing is taken.
        (lambda x: x[:, 1::2], [(0, 1), (2, 3), (4, 5), (6, 7)]),
        (lambda x: functional.channel_shuffle(x, 3), [(0, 3, 6), (1, 4, 7), (2, 5, 8)]),
        (lambda x: x[..., ::2], [(n,) for n in range(9)]),
    ],
)
def test_channels_that_are_taken_in_turn_go_together(function, groups):
    model = Between(function)
    x = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    units = find_units(model, x)
    (slot,) = [s for s in units[0].slots if s.tensor == "before.weight"]
    assert sorted(map(tuple, slot.index.tolist())) == groups
    for width in range(1, len(groups)):
        small = slice_model(model, units, [width])
        verify(model, small, units, [width], x)
        gone = slot.index[units[0].order[width:]]
        kept = [c for c in range(9) if c not in gone]
        assert torch.equal(small.before.weight, model.before.weight[kept])
