"""find_units on real networks: what is found, what is frozen, and that all of it can be cut."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from amc.errors import ConfigError, ModelError, UnitError
from amc.pruning.find_units import find_units, read_units
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify

# Number of units, and the frozen channels with the beginning of the reason.
EXPECTED = {
    "resnet20": (14, {("linear", 10): "network output"}),  # its padding follows, in two parts
    "resnet20_b": (12, {("linear", 10): "network output"}),
    "vgg11_bn": (8, {("classifier", 10): "network output"}),
    "mobilenet_v2": (25, {("classifier", 10): "network output"}),
    "smallcnn": (4, {("linear", 10): "network output"}),
    "resnet18": (12, {("fc", 1000): "network output"}),
    "mobilenet_v3_small": (27, {("classifier.3", 1000): "network output"}),
    "efficientnet_b0": (40, {("classifier.1", 1000): "network output"}),
    "googlenet": (57, {("fc", 1000): "network output"}),
    "densenet121": (120, {("classifier", 1000): "network output"}),
    "resnet50": (37, {("fc", 1000): "network output"}),
    "vgg16_bn": (15, {("classifier.6", 1000): "network output"}),
    "imagenet_mobilenet_v2": (25, {("classifier.1", 1000): "network output"}),
}
SMALL = ("resnet20", "resnet20_b", "vgg11_bn", "mobilenet_v2", "smallcnn")
SLOW = ("resnet50", "vgg16_bn", "imagenet_mobilenet_v2")
ROUNDING = 3e-5
"""Of float32, relative to the largest output; what verify tolerates is four times as much."""

zoo = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in SLOW else ()) for n in EXPECTED]
)


@zoo
def test_units_and_frozen_channels(subject, name):
    units = subject(name).units
    count, frozen = EXPECTED[name]
    assert len(units) == count
    assert {(f.name, f.channels) for f in units.frozen} == set(frozen)
    assert all(f.reason.startswith(frozen[f.name, f.channels]) for f in units.frozen)


@zoo
def test_every_unit_can_shrink_alone_to_one_group(subject, name):
    s = subject(name)
    # find_units has halved each of them; in large networks a sample suffices here.
    for number in np.unique(np.linspace(0, len(s.units) - 1, 12, dtype=int)):
        widths = list(s.units.dense_widths)
        widths[number] = 1
        small = slice_model(s.model, s.units, widths)
        assert verify(s.model, small, s.units, widths, s.inputs) < ROUNDING


@zoo
@pytest.mark.parametrize("keep", [0.9, 0.5, 0.2])
def test_random_plans_compute_what_the_masked_twin_does_at_exactly_the_stated_cost(
    subject, name, keep
):
    s = subject(name)
    for seed in range(3 if name in SMALL else 1):
        draw = np.random.default_rng(seed).uniform(keep - 0.1, keep + 0.1, len(s.units))
        widths = [
            max(1, round(part * unit.width)) for part, unit in zip(draw, s.units, strict=True)
        ]
        small = slice_model(s.model, s.units, widths)
        assert verify(s.model, small, s.units, widths, s.inputs) < ROUNDING
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            small(s.inputs)
        assert s.cost.macs(widths) * 2 == counter.get_total_flops()
        assert s.cost.params(widths) == sum(p.numel() for p in small.parameters())


@pytest.mark.slow
def test_every_unit_of_a_densenet_is_proved(subject):
    s = subject("densenet121")
    assert len(find_units(s.model, s.inputs)) == 120


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(), nn.ReLU(), nn.Conv2d(8, 4, 3)
    )
    model.train()
    model[1].eval()  # a frozen BatchNorm inside a network in training
    model[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    find_units(model, torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert [m.training for m in model.modules()] == [True, True, False, True, True, True]
    assert [p.requires_grad for p in model.parameters()] == [False, *[True] * 5]
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(not tensor.is_inference() for tensor in after.values())
    assert torch.backends.mha.get_fastpath_enabled()


def test_progress_counts_every_unit():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    seen: list[tuple[int, int]] = []
    find_units(
        model, torch.ones(1, 3, 4, 4), on_unit=lambda done, total: seen.append((done, total))
    )
    assert seen == sorted(seen)
    assert seen[-1] == (2, 2)


def test_groups_are_ranked_by_the_criterion_asked_for():
    model = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.Conv2d(3, 2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([2.0, -3.0, 1.0]).view(3, 1, 1, 1))
    units = find_units(model, torch.ones(1, 1, 2, 2), importance="l1")
    assert units[0].order.tolist() == [1, 0, 2]
    assert units[0].kept(2).tolist() == [0, 1]
    with pytest.raises(ConfigError, match=r"importance 'l3' is unknown; choose from .*l1"):
        find_units(model, torch.ones(1, 1, 2, 2), importance="l3")


def test_bounds_reach_the_units():
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 2, 1))
    x = torch.ones(1, 3, 4, 4)
    units = find_units(model, x, min_keep=0.3, round_to=4, exclude=["1"])
    assert [(unit.name, unit.widths) for unit in units] == [("0", (8, 12, 16))]
    assert [(f.name, f.reason) for f in units.frozen] == [
        ("2", "network output"),
        ("1", "excluded by '1'"),
    ]


def test_a_model_without_a_prunable_unit_is_refused_with_all_reasons():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Softmax2d(), nn.Conv2d(4, 2, 1))
    with pytest.raises(UnitError, match=r"nothing can be pruned.*mixed by softmax.*; network out"):
        find_units(model, torch.ones(1, 3, 4, 4))
    with pytest.raises(UnitError, match="no layers"):
        find_units(nn.ReLU(), torch.ones(1, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["0.weight", "1.running_var"])
def test_weights_that_are_not_finite_are_named(value, name):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    model.state_dict()[name].view(-1)[2] = value
    with pytest.raises(ModelError, match=f"{name} holds NaN or infinite"):
        read_units(model, torch.ones(1, 3, 4, 4))


def test_an_input_that_does_not_fit_is_shown_with_its_shape():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    with pytest.raises(ModelError, match=r"shapes \[\(1, 5, 4, 4\)\].*expected input.*3 channels"):
        find_units(model, torch.ones(1, 5, 4, 4))
    assert model.training
