"""A hundred random networks: none is cut wrongly (``benchmarks/fuzz.py`` does thousands)."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from benchmarks.fuzzing.blocks import KINDS
from benchmarks.fuzzing.generate import Spec, build, draw_spec
from benchmarks.fuzzing.judge import HARMLESS, judge
from benchmarks.fuzzing.live import Kept, MismatchError


@pytest.mark.parametrize("seed", range(100))
def test_no_plan_of_a_random_network_is_wrong(seed):
    spec = draw_spec(seed)
    verdict = judge(spec)
    assert verdict.outcome in HARMLESS, f"{verdict.outcome}: {verdict.message}, {spec}"


def test_a_seed_stands_for_one_network():
    spec = draw_spec(3)
    assert spec == draw_spec(3)
    one, other = build(spec), build(spec)
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert str(one) == str(other)


def test_the_first_networks_have_every_kind_of_block():
    drawn = {name for seed in range(100) for name, _ in draw_spec(seed).blocks}
    assert len(drawn) > 0.9 * len(KINDS)


def test_the_reference_notices_a_reader_that_expects_other_channels():
    network = build(Spec(0, (("plain", 0), ("plain", 1))))
    writer = SimpleNamespace(tensor="blocks.0.steps.0.weight", dim=0, index=None)
    bias = SimpleNamespace(tensor="blocks.0.steps.0.bias", dim=0, index=None)
    reader = SimpleNamespace(tensor="blocks.1.steps.0.weight", dim=1, index=None)
    first = network.get_submodule("blocks.0.steps.0")
    assert isinstance(first, nn.Module)
    width = len(first.weight)
    order = torch.arange(width).numpy()
    for slot in (writer, bias, reader):
        slot.index = order[:, None]
    slots = [writer, reader] if first.bias is None else [writer, bias, reader]
    inputs = network.inputs(0)
    right = SimpleNamespace(slots=slots, order=order)
    network.reference(Kept(network, [right], [width - 1]), *inputs)
    reader.index = order[::-1, None]
    with pytest.raises(MismatchError):
        network.reference(Kept(network, [right], [width - 1]), *inputs)
