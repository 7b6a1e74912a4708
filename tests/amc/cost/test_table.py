"""Costs against formulas written out by hand (counts of sliced networks: test_find, test_units)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import Conv2d, Linear

from amc.cost.table import CostTable, prunable_fraction
from amc.errors import ConfigError
from amc.pruning.find_units import read_units


def cost_of(model: nn.Module, *shape: int) -> CostTable:
    return CostTable(read_units(model, torch.ones(shape)))


def test_a_chain_of_layers():
    model = nn.Sequential(
        Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        Conv2d(4, 5, 3, bias=False),
        nn.Flatten(),
        nn.Linear(80, 7),
    )
    cost = cost_of(model, 2, 3, 8, 8)
    for a, b in itertools.product(range(1, 5), range(1, 6)):
        layers = [2 * 36 * 27 * a, 2 * 16 * 9 * a * b, 2 * 16 * b * 7]
        assert cost.layer_macs((a, b)).tolist() == layers
        assert cost.macs((a, b)) == cost.macs(np.array([a, b])) == sum(layers)
        assert cost.params((a, b)) == (27 * a + a) + 2 * a + 9 * a * b + (16 * b * 7 + 7)
    assert (cost.dense("macs"), cost.dense("params")) == (cost.macs((4, 5)), cost.params((4, 5)))
    assert cost.dense("params") == cost.dense("params")
    assert cost.function("macs")((1, 2)) == cost.macs((1, 2))


class Block(nn.Module):
    """Tied input and output of one layer, a grouped and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Conv2d(3, 6, 1, bias=False)
        self.square = Conv2d(6, 6, 1, bias=False)
        self.grouped = Conv2d(6, 8, 1, groups=2, bias=False)
        self.depthwise = Conv2d(8, 16, 3, padding=1, groups=8, bias=False)
        self.head = Conv2d(16, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.square(x)
        result: Tensor = self.head(self.depthwise(self.grouped(x)))
        return result


def test_products_of_one_width_with_itself_and_groups():
    cost = cost_of(Block(), 1, 3, 2, 2)
    for a, b in itertools.product(range(1, 4), range(1, 5)):  # 2 channels a group, in both units
        weights = 3 * 2 * a + (2 * a) ** 2 + (2 * a) * (2 * b) // 2 + 9 * 4 * b + 4 * b * 2
        assert cost.macs((a, b)) == 4 * weights
        assert cost.params((a, b)) == weights


def test_a_layer_called_twice_counts_twice_in_macs_and_once_in_parameters():
    shared = Conv2d(4, 4, 1, bias=False)
    model = nn.Sequential(Conv2d(3, 4, 1, bias=False), shared, nn.ReLU(), shared, Conv2d(4, 2, 1))
    cost = cost_of(model, 1, 3, 2, 2)
    for a in range(1, 5):
        assert cost.macs([a]) == 4 * (3 * a + 2 * a * a + 2 * a)
        assert cost.params([a]) == 3 * a + a * a + (2 * a + 2)


def test_what_no_unit_touches_is_a_constant():
    model = nn.Sequential(Conv2d(3, 8, 1), nn.Softmax2d(), Conv2d(8, 4, 1), Conv2d(4, 2, 1))
    cost = cost_of(model, 1, 3, 2, 2)
    assert [cost.macs([k]) for k in (1, 4)] == [4 * (24 + 10), 4 * (24 + 40)]
    assert prunable_fraction(cost.units) == pytest.approx((32 + 8) / (24 + 32 + 8))


def test_macs_are_shared_out_between_writers_and_readers():
    model = nn.Sequential(Conv2d(3, 4, 3, bias=False), Conv2d(4, 5, 3, bias=False), Conv2d(5, 2, 3))
    cost = cost_of(model, 1, 3, 10, 10)
    first, second, third = 64 * 27 * 4, 36 * 36 * 5, 16 * 45 * 2
    assert cost.unit_macs.tolist() == [first / 2 + second / 2, second / 2 + third / 2]
    block = cost_of(Block(), 1, 3, 2, 2)
    stem, square, grouped, depthwise, head = (4 * n for n in (18, 36, 24, 144, 32))
    assert block.unit_macs.tolist() == [
        stem / 2 + square + grouped / 2,
        grouped / 2 + depthwise + head / 2,
    ]


def test_macs_of_attention_belong_to_its_heads():
    encoder = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).eval()
    units = read_units(nn.Sequential(Linear(6, 8), encoder, Linear(8, 3)), torch.ones(1, 5, 6))
    stream, heads, hidden = CostTable(units).unit_macs.tolist()
    packed, out, wide, products = 5 * 8 * 24, 5 * 8 * 8, 5 * 8 * 12, 2 * 5 * 5 * 8
    assert heads == packed / 2 + products + out / 2
    assert hidden == wide
    assert stream == 5 * 6 * 8 / 2 + packed / 2 + out / 2 + wide + 5 * 8 * 3 / 2


@pytest.mark.parametrize("name", ["resnet20", "googlenet", "efficientnet_b0", "densenet121"])
def test_shares_of_macs_leave_only_what_inputs_and_outputs_hold(subject, name):
    s = subject(name)
    left = s.cost.dense("macs") - s.cost.unit_macs.sum()
    assert -1e-6 < left < 0.5 * s.cost.dense("macs")
    assert (s.cost.unit_macs > 0).all()


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v3_small"])
def test_costs_grow_with_every_width(subject, name):
    s = subject(name)
    generator = np.random.default_rng(0)
    widths = generator.integers(1, s.units.dense_widths)
    for number in range(len(s.units)):
        more = widths.copy()
        more[number] += 1
        assert s.cost.macs(more) > s.cost.macs(widths)
        assert s.cost.params(more) > s.cost.params(widths)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v3_small", "densenet121"])
def test_many_plans_at_once(subject, name):
    s = subject(name)
    widths = np.random.default_rng(0).integers(1, s.units.dense_widths, (20, len(s.units)))
    for quantity in ("macs", "params"):
        one_by_one = [s.cost.function(quantity)(row) for row in widths]
        assert s.cost.totals(quantity, widths).tolist() == one_by_one
    assert [s.cost.layer_macs(row).sum() for row in widths] == s.cost.totals(
        "macs", widths
    ).tolist()


def test_an_unknown_quantity_is_named():
    with pytest.raises(ConfigError, match="unknown cost 'flops'; known are macs, params"):
        cost_of(Block(), 1, 3, 2, 2).function("flops")
