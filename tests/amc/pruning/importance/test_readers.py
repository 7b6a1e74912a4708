"""What is read off the operations, against hooks on the modules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from amc.errors import ConfigError
from amc.pruning.find_units import read_units
from amc.pruning.importance.evidence import Evidence
from amc.pruning.importance.readers import read_inputs
from amc.pruning.importance.score import score
from tests.families import lively


@pytest.mark.parametrize(
    "name", ["resnet", "resnext", "shufflenet", "mobilenet_v3", "unet", "vit", "waves"]
)
def test_inputs_of_the_readers(name):
    model, *both = lively(name)
    units = read_units(model, both[0])
    seen: dict[str, list[Tensor]] = {}

    def see(path):
        return lambda _, args: seen.setdefault(f"{path}.weight", []).append(args[0])

    hooks = [
        module.register_forward_pre_hook(see(path))
        for path, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor) and module.weight.dim() > 1
    ]
    with torch.no_grad():
        for inputs in both:
            model(*inputs)
    for hook in hooks:
        hook.remove()
    found = read_inputs(Evidence(model, units), both, torch.abs)
    places = {(s.tensor, s.dim) for unit in units for s in unit.slots if s.purpose == "in"}
    assert found.keys() == places
    compared = 0
    for (tensor, dim), means in found.items():
        calls = seen.get(tensor)
        if calls is None:  # attention's projections: used, but not called
            continue
        size = model.get_parameter(tensor).shape[dim]
        if isinstance(model.get_submodule(tensor.removesuffix(".weight")), nn.modules.conv._ConvNd):
            calls = [x.movedim(1, -1) for x in calls]
        expected = [x.abs().reshape(-1, size).mean(0) for x in calls]
        torch.testing.assert_close(means, torch.stack(expected))
        compared += 1
    assert compared >= len(units) // 2


def test_inputs_of_stored_matrices():
    class Matrices(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Parameter(torch.arange(12.0).view(3, 4))
            self.second = nn.Parameter(torch.arange(20.0).view(4, 5))
            self.third = nn.Parameter(torch.arange(10.0).view(5, 2))
            self.bias = nn.Parameter(torch.ones(2))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, torch.tanh(x @ self.first) @ self.second, self.third)

    model, x = Matrices(), torch.linspace(-0.1, 0.1, 6).view(2, 3)
    found = read_inputs(Evidence(model, read_units(model, x)), [x], torch.abs)
    hidden = torch.tanh(x @ model.first)
    expected = {("second", 0): hidden, ("third", 0): hidden @ model.second}
    assert found.keys() == expected.keys()
    for place, values in expected.items():
        torch.testing.assert_close(found[place], values.detach().abs().mean(0, keepdim=True))


def test_a_unit_that_nothing_reads_on_the_calibration_is_named():
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(self.second(self.first(x)) if len(x) > 1 else x.new_zeros(5))
            return out

    model = Sometimes()
    units = read_units(model, torch.ones(2, 3))
    with pytest.raises(ConfigError, match="activation of first was not seen"):
        score(model, units, "activation", calibration=[torch.ones(1, 3)])
