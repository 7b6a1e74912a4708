"""Where the time went: numbers of a network that can be added up by hand."""

import pytest
import torch
from torch import nn

from amc.latency.backends import Part, make_backend
from amc.latency.breakdown import compare_parts, explain
from amc.tracing.rules import Layer


def layer(name, macs, widths):
    return Layer(name, "conv", macs, 1, in_channels=widths[0], out_channels=widths[1])


DENSE = (layer("a", 400, (3, 64)), layer("b", 500, (64, 64)), layer("c", 100, (64, 16)))
SMALL = (layer("a", 200, (3, 32)), layer("b", 125, (32, 27)), layer("c", 50, (27, 16)))
DENSE_PARTS = (
    Part("a", "Conv", 4.0),
    Part("", "Relu", 1.0),
    Part("b", "Conv", 3.0),
    Part("b", "Conv", 1.0),  # one layer in two operations
    Part("c", "Gemm", 0.5),
)
SMALL_PARTS = (
    Part("a", "Conv", 2.5),
    Part("", "Relu", 0.75),
    Part("b", "FusedConv", 2.0),
    Part("", "Reorder", 0.25),
    Part("c", "Gemm", 0.5),
)


@pytest.fixture
def found():
    """375 of 1,000 MACs; 7 ms of 10."""
    return compare_parts((DENSE_PARTS, SMALL_PARTS), (DENSE, SMALL), (10.0, 7.0))


def test_each_layer_against_its_own_macs(found):
    a, b, c = found.layers
    assert found.kept_macs == 0.375
    assert (a.expected_ms, a.excess_ms, a.unaligned) == (2.0, 0.5, False)
    assert (b.dense_ms, b.expected_ms, b.excess_ms, b.unaligned) == (4.0, 1.0, 1.0, True)
    assert (c.expected_ms, c.excess_ms, c.unaligned) == (0.25, 0.25, True)  # it reads b's 27
    assert [(x.kind, x.dense_ms, x.ms) for x in found.others] == [
        ("Relu", 1.0, 0.75),
        ("Reorder", 0.0, 0.25),
    ]
    assert (found.overhead.dense_ms, found.overhead.ms) == (0.5, 1.0)
    assert found.warning == ""


def test_the_causes_by_hand_and_their_sum(found):
    assert found.missing_ms == pytest.approx(7 - 3.75)
    unaligned, aligned, cheap, others, overhead = found.causes().values()
    assert unaligned == pytest.approx(1.0 + 0.25)
    assert aligned == pytest.approx(0.5)
    # By its own MACs each layer keeps .5, .25 and .5 of 4, 4 and .5 ms; by all MACs .375 of 8.5.
    assert cheap == pytest.approx(2 + 1 + 0.25 - 0.375 * 8.5)
    assert others == pytest.approx(0.75 + 0.25 - 0.375)
    assert overhead == pytest.approx(1 - 0.375 * 0.5)
    assert sum(found.causes().values()) == pytest.approx(found.missing_ms)


def test_parts_that_exceed_the_whole_are_scaled_and_doubted():
    found = compare_parts((DENSE_PARTS, SMALL_PARTS), (DENSE, SMALL), (9.0, 3.0))
    assert sum(x.ms for x in (*found.layers, *found.others)) == pytest.approx(3.0)
    assert found.overhead.ms == pytest.approx(0)
    assert found.layers[0].dense_ms == pytest.approx(4.0 / 2)  # both networks by the same factor
    assert found.overhead.dense_ms == pytest.approx(9 - 9.5 / 2)
    assert "2.0 times the whole forward" in found.warning
    assert sum(found.causes().values()) == pytest.approx(found.missing_ms)


def test_a_layer_that_is_gone_takes_nothing():
    found = compare_parts((DENSE_PARTS, SMALL_PARTS[:2]), (DENSE, SMALL[:1]), (10.0, 4.0))
    b = found.layers[1]
    assert (b.macs, b.ms, b.excess_ms) == (0, 0, 0)
    assert sum(found.causes().values()) == pytest.approx(found.missing_ms)


def test_two_real_networks_account_for_all_of_their_time():
    def network(width):
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 8, 3)).eval()

    found = explain(
        make_backend("onnxruntime"),
        (network(32), network(13)),
        (torch.zeros(1, 3, 12, 12),),
        (1000.0, 999.0),
    )
    first, second = found.layers
    assert (first.name, second.name) == ("0", "2")
    assert first.widths == (3, 13)
    assert first.macs == 13 * 27 * 100
    assert second.unaligned
    for side in ("dense_ms", "ms"):
        parts = sum(getattr(x, side) for x in (*found.layers, *found.others, found.overhead))
        assert parts == pytest.approx(getattr(found, side))
    assert 0 < first.ms < 500


def test_a_runtime_that_does_not_tell(monkeypatch):
    runtime = make_backend("torch")
    monkeypatch.setattr(runtime, "profile", lambda *_, **__: None)
    model = nn.Linear(2, 2)
    assert explain(runtime, (model, model), (torch.ones(1, 2),), (1.0, 1.0)) is None
