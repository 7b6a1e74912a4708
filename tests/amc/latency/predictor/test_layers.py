"""The layers of a forward, against the modules of really sliced networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from amc.latency.predictor.layers import run_layers, timed_layers
from amc.pruning.find_units import read_units
from amc.pruning.slicing.slice import slice_model


@pytest.mark.parametrize(
    "name", ["resnet20_b", "mobilenet_v2", "smallcnn", "googlenet", "efficientnet_b0"]
)
def test_sizes_and_shapes_of_a_sliced_network(subject, name):
    s = subject(name)
    generator = np.random.default_rng(0)
    widths = [int(generator.choice(unit.widths[len(unit.widths) // 3 :])) for unit in s.units]
    found = timed_layers(s.model, s.inputs, s.units)
    real: dict[str, Any] = {}

    def note(path):
        def hook(module, args, out):
            real[path] = (module, args[0], out)

        return hook

    small = slice_model(s.model, s.units, widths).eval()
    for path, module in small.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(note(path))
    with torch.no_grad():
        small(s.inputs)
    assert {layer.name for layer in found} == set(real)
    for layer in found:
        module, x, out = real[layer.name]
        inputs, outputs = (
            int(np.dot(form[:-1], widths)) + form[-1] for form in (layer.in_form, layer.out_form)
        )
        alone, example = layer.shape.network(inputs, outputs)
        assert alone[0].weight.shape == module.weight.shape
        assert example.shape == x.shape
        assert alone(example).shape == out.shape
        assert layer.shape.positions * outputs == out.numel()


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, 3, 3))
        self.norm = nn.BatchNorm2d(6)
        self.mix = nn.Linear(6, 4)

    def forward(self, x):
        y = F.relu(self.norm(F.conv2d(x, self.weight, padding=1)))
        return self.mix(y.flatten(2).transpose(1, 2))


def test_what_is_fused_and_what_is_called_by_hand():
    first, last = run_layers(Functional(), torch.zeros(2, 3, 8, 8))
    assert str(first.shape) == "conv2d 2x8x8 k3x3 p1x1 relu"
    assert (first.weight, first.inputs, first.outputs) == ("weight", 3, 6)
    assert str(last.shape) == "linear 2x64"


def test_a_shared_layer_counts_as_often_as_it_runs():
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    x = torch.zeros(1, 4)
    assert len(run_layers(model, x)) == 2
    assert len(timed_layers(model, x, read_units(model, x))) == 2
