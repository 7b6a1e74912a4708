"""What more of a unit is worth in a plan, against finite differences of gates in a network of its
own that reads only what the plan keeps."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from amc.pruning.find_units import read_units
from amc.pruning.importance.growth import growth_gains
from tests.amc.pruning.importance.test_criteria import batches, drawn, unit_of

STEP = 1e-5


class Narrow(nn.Module):
    """A stream with two producers, an inner layer that keeps everything, and BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.inner, self.mid = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.back = nn.Conv2d(12, 8, 1)
        self.wide, self.head = nn.Linear(8, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.stem(x)))
        y = y + self.back(torch.relu(self.mid(self.inner(y))))
        out: Tensor = self.head(torch.tanh(self.wide(y.mean((2, 3)))))
        return out


def gated(model: Narrow, x: Tensor, stream: Tensor, inner: Tensor) -> Tensor:
    """The forward of ``model`` with gates where channels are read, and the batch's statistics."""

    def norm(layer: nn.BatchNorm2d, y: Tensor) -> Tensor:
        return nn.functional.batch_norm(y, None, None, layer.weight, layer.bias, True)

    y = torch.relu(norm(model.norm, model.stem(x)))
    z = torch.relu(norm(model.mid, model.inner(y * stream[:, None, None])))
    y = y + model.back(z * inner[:, None, None])
    return model.head(torch.tanh(model.wide((y * stream[:, None, None]).mean((2, 3)))))


def test_it_is_the_derivative_by_the_next_gates():
    model, images = drawn(Narrow()), batches(6, 3, 7, 7)
    units = read_units(model, images[0])
    stream, inner = (unit_of(units, name) for name in ("stem", "inner"))
    targets = [torch.randn(6, 3, dtype=torch.float64) for _ in images]
    kept = {"stem": 3, "inner": 8, "wide": 5}
    widths = [kept[unit.name] for unit in units]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def divergence(network: nn.Module) -> Iterator[Tensor]:
        for x, target in zip(images, targets, strict=True):
            yield (network(x) - target).square().mean()

    gains = dict(
        zip([u.name for u in units], growth_gains(model, units, widths, divergence), strict=True)
    )
    assert np.isnan(gains["wide"])

    def total(opened: dict[str, np.ndarray]) -> float:
        gates = {}
        for unit in (stream, inner):
            gate = torch.zeros(unit.width, dtype=torch.float64)
            gate[torch.from_numpy(unit.order[: kept[unit.name]].copy())] = 1
            gate += torch.from_numpy(opened.get(unit.name, np.zeros(unit.width)))
            gates[unit.name] = gate
        with torch.no_grad():
            return sum(
                float((gated(model, x, gates["stem"], gates["inner"]) - t).square().mean())
                for x, t in zip(images, targets, strict=True)
            )

    for unit, band in ((stream, 1), (inner, 3)):  # a third of 3 and of 8 that are kept
        slopes = []
        for group in unit.order[kept[unit.name] : kept[unit.name] + band]:
            nudge = np.zeros(unit.width)
            nudge[group] = STEP
            slopes.append((total({unit.name: nudge}) - total({unit.name: -nudge})) / (2 * STEP))
        expected = -np.mean(slopes) * kept[unit.name] / total({})
        np.testing.assert_allclose(gains[unit.name], expected, rtol=1e-6)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert not any(p.grad is not None for p in model.parameters())
