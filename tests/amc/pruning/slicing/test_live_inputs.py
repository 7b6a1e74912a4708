"""Which inputs are dead, and what is drawn in their place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from amc.pruning.slicing.live_inputs import is_dead, live_inputs
from amc.tracing.inputs import Inputs

NAN, INF = float("nan"), float("inf")
GENERATOR = torch.Generator().manual_seed(0)
NOISE = torch.randn(4, 5, generator=GENERATOR)


@pytest.mark.parametrize(
    ("x", "dead"),
    [
        (torch.zeros(4, 5), True),
        (torch.ones(4, 5), True),
        (NOISE * 1e-30, True),
        (1e4 + NOISE * 1e-2, True),
        (torch.full((4, 5), NAN), True),
        (torch.tensor([1.0, NAN, 2.0]), True),
        (torch.tensor([1.0, INF, 2.0]), True),
        (torch.tensor(0.0), True),
        (torch.zeros(3, dtype=torch.int64), True),
        (torch.full((3,), 7), True),
        (torch.zeros(3, dtype=torch.bool), True),
        (NOISE, False),
        (NOISE * 1e-3, False),
        (torch.tensor([0.0, 0.0, -INF]), False),  # a mask that is added
        (torch.tensor(0.5), False),  # a time, a temperature
        (torch.tensor(7), False),
        (torch.tensor([1, 2, 3]), False),
        (torch.tensor([True, False]), False),
        (torch.ones(3, dtype=torch.bool), False),
        (torch.zeros(0, 5), False),
    ],
)
def test_inputs_that_tell_nothing_are_dead(x, dead):
    assert is_dead(x) is dead


class Words(nn.Module):
    """Words and their kinds from tables of 20 and 3 rows, masked; a number of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(20, 6), nn.Parameter(torch.randn(3, 6))
        self.steps: list[int] = []

    def forward(self, words: Tensor, kinds: Tensor, mask: Tensor, steps: Tensor) -> Tensor:
        self.steps = steps.tolist()
        x = self.words(words.long()) + self.kinds[kinds]
        return x.masked_fill(mask[..., None], 0).log_softmax(-1)


def test_whole_numbers_are_drawn_from_the_rows_that_they_index():
    zeros, model = torch.zeros(2, 50, dtype=torch.int32), Words().eval()
    given = Inputs(zeros, zeros.long(), torch.zeros(2, 50, dtype=torch.bool), steps=torch.zeros(2))
    steps = torch.tensor([4, 4])
    words, kinds, mask = live_inputs(model, Inputs(*given.args, steps=steps)).args
    assert words.dtype is torch.int32
    assert set(words.flatten().tolist()) == set(range(20))
    assert set(kinds.flatten().tolist()) == {0, 1, 2}
    assert mask.any()
    assert not mask.all()
    assert model.steps == [4, 4]  # indexes nothing


def test_live_inputs_are_used_as_they_are_and_dead_ones_drawn_alike_every_time():
    model = nn.Linear(5, 2)
    given = Inputs(NOISE)
    assert live_inputs(model, given) is given
    first, second = (live_inputs(model, Inputs(torch.zeros(64, 5))).args[0] for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == (64, 5)
    assert 0.8 < first.std() < 1.2
    assert first.min() < -1


def test_a_network_that_does_not_take_the_draw_gets_another_or_its_example():
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sqrt()

    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.any():
                raise ValueError("zeros only")
            return x

    (drawn,) = live_inputs(Root(), Inputs(torch.zeros(3, 5))).args
    assert drawn.min() >= 0
    assert drawn.std() > 0.1
    zeros = Inputs(torch.zeros(3, 5))
    assert live_inputs(Picky(), zeros) is zeros
