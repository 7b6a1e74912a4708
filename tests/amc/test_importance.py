"""Scores against sums written out by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amc.errors import ConfigError
from amc.find import read_units
from amc.importance import CRITERIA, score
from amc.slim import slice_model


class Small(nn.Module):
    """A stream of two groups of channels with two producers, and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 2, 1)
        self.bn = nn.BatchNorm2d(2)
        self.b = nn.Conv2d(1, 2, 1, bias=False)
        self.depthwise = nn.Conv2d(2, 4, 1, groups=2, bias=False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.bn(self.a(x)) + self.b(x))
        logits: Tensor = self.head(y.mean((2, 3)))
        return logits


@pytest.fixture
def small() -> nn.Module:
    model = Small().eval()
    with torch.no_grad():
        model.a.weight.copy_(torch.tensor([-3.0, 1.0]).view(2, 1, 1, 1))
        model.a.bias.fill_(100.0)  # a bias is no weight
        model.b.weight.copy_(torch.tensor([4.0, -2.0]).view(2, 1, 1, 1))
        model.bn.weight.copy_(torch.tensor([0.5, -2.0]))
        model.depthwise.weight.fill_(50.0)  # rides along, and neither writes nor reads
        model.head.weight.copy_(torch.tensor([[1.0, 2.0, 0.0, 3.0], [2.0, 0.0, 1.0, -1.0]]))
    return model


@pytest.mark.parametrize(
    ("criterion", "scores"),
    [
        ("l1", [3 + 4, 1 + 2]),
        ("l2", [(9 + 16) ** 0.5, (1 + 4) ** 0.5]),
        # The head reads channels 0 and 1 of group 0 and channels 2 and 3 of group 1.
        ("contribution", [0.5 * (1 + 4 + 4) ** 0.5, 2 * (9 + 1 + 1) ** 0.5]),
    ],
)
def test_scores_by_hand(small, criterion, scores):
    units = read_units(small, torch.ones(1, 1, 2, 2))
    (found,) = score(small, units, criterion)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, scores)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", ["resnet20_b", "mobilenet_v3_small", "googlenet"])
def test_scores_move_with_their_channels(subject, name, criterion):
    """Groups of a unit that change places in all its tensors change their scores' places."""
    s = subject(name)
    before = score(s.model, s.units, criterion)
    assert [x.shape for x in before] == [(unit.width,) for unit in s.units]
    generator = np.random.default_rng(0)
    for number in (0, len(s.units) // 2, len(s.units) - 1):
        unit = s.units[number]
        order = generator.permutation(unit.width)
        moved = copy.deepcopy(s.model)
        with torch.no_grad():
            for slot in unit.slots:
                tensor = moved.state_dict()[slot.tensor].movedim(slot.dim, 0)
                tensor[slot.index.ravel()] = tensor[slot.index[order].ravel()]
        torch.testing.assert_close(moved(s.inputs), s.model(s.inputs), rtol=1e-3, atol=1e-3)
        after = score(moved, s.units, criterion)
        assert len(np.unique(before[number])) == unit.width
        np.testing.assert_allclose(after[number], before[number][order])


def test_scores_of_a_narrowed_unit_are_those_of_the_kept_groups(subject):
    """Cutting channels of one unit alone leaves its own producers' scores as they were."""
    s = subject("resnet20")
    widths = list(s.units.dense_widths)
    widths[3] //= 2
    small = slice_model(s.model, s.units, widths)
    before = score(s.model, s.units, "l2")[3]
    units = read_units(small, s.inputs)
    after = score(small, units, "l2")[[unit.name for unit in units].index(s.units[3].name)]
    np.testing.assert_array_equal(after, before[s.units[3].kept(widths[3])])


def test_weights_that_are_buffers_do_not_disturb():
    class Bank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("bank", torch.ones(4, 1, 1, 1))
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(nn.functional.conv2d(x, self.bank))
            return result

    model = Bank()
    units = read_units(model, torch.ones(1, 1, 2, 2))
    for criterion in CRITERIA:
        assert np.isfinite(score(model, units, criterion)[0]).all()


def test_an_unknown_criterion_is_named_with_the_known_ones(small):
    units = read_units(small, torch.ones(1, 1, 2, 2))
    with pytest.raises(
        ConfigError, match="unknown importance 'taylor'; known are contribution, l1"
    ):
        score(small, units, "taylor")
