"""Networks of many families: what is found in them, that all of it can be cut, at what cost."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from amc.cost.table import CostTable
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify
from amc.tracing.trace import unfused_attention
from tests.families import FAMILIES, SLOW, Subject, subject


def families():
    """Every family; those that take long are off by default."""
    marks = {name: pytest.mark.slow if name in SLOW else () for name in FAMILIES}
    return pytest.mark.parametrize("name", [pytest.param(n, marks=m) for n, m in marks.items()])


@families()
def test_units_and_frozen_channels(name):
    units, expected = subject(name).units, FAMILIES[name]
    assert len(units) == expected.units
    frozen: Counter[str] = Counter()
    for channels in units.frozen:
        known = [reason for reason in expected.frozen if channels.reason.startswith(reason)]
        frozen[*known or [channels.reason]] += channels.channels
    assert frozen == {(reason,): channels for reason, channels in expected.frozen.items()}


@families()
def test_a_signal_flows(name):
    """Otherwise the other tests say nothing."""
    assert subject(name).signal() > 1e-3


@families()
def test_every_unit_can_be_cut_alone(name):
    s = subject(name)
    # find_units has proved each of them once; of many a sample suffices here.
    for number in np.unique(np.linspace(0, len(s.units) - 1, 6, dtype=int)):
        unit = s.units[number]
        # A standardised 1 x 1 kernel needs two inputs: the deviation of one number is 0.
        least = 2 if name == "timm_nfnet" else 1
        for width in sorted({least, unit.width // 2 | 1, unit.width - 1} - {unit.width}):
            widths = list(s.units.dense_widths)
            widths[number] = width
            cut(s, widths)


@families()
@pytest.mark.parametrize("keep", [0.9, 0.5, 0.2])
def test_random_plans_can_be_cut_at_exactly_the_stated_cost(name, keep):
    s, generator = subject(name), np.random.default_rng(0)
    cost = CostTable(s.units)
    draw = generator.uniform(keep - 0.1, keep + 0.1, len(s.units))
    widths = [max(1, round(part * unit.width)) for part, unit in zip(draw, s.units, strict=True)]
    small = cut(s, widths)
    assert cost.params(widths) == sum(p.numel() for p in small.parameters())
    if name != "faster_rcnn":  # how many boxes it looks at depends on its weights
        assert cost.macs(widths) == counted_macs(small, s)


def cut(s: Subject, widths: list[int]) -> nn.Module:
    small = slice_model(s.model, s.units, widths)
    assert verify(s.model, small, s.units, widths, s.inputs) < 1e-4
    return small


def counted_macs(model: nn.Module, s: Subject) -> int:
    """What PyTorch counts; it cannot look into the fused operations of dense attention."""
    model.requires_grad_(False)  # the counter stumbles on parameters that are used as data
    with unfused_attention(), FlopCounterMode(display=False) as counter:
        model(*s.inputs)
    return counter.get_total_flops() // 2
