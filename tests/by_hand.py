"""Small networks whose units are worked out by hand, and what has to hold for every unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from amc.cost.table import CostTable
from amc.pruning.find_units import find_units
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify
from amc.tracing.units import Units


class Net(nn.Module):
    """A forward function over some modules, parameters, buffers and attributes."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(self, *inputs)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    """The network with the weights of one seed, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval()


def check(
    model: nn.Module,
    x: Tensor,
    units: dict[str, tuple[int, str]],
    frozen: dict[str, str] | None = None,
) -> None:
    """Compare what is found, cut each unit alone and all at random, and count what is left.

    ``units`` has the width of each and its uses, ``tensor:dim`` in alphabetical order; ``frozen``
    how the reason of each begins, but for the output's.
    """
    found = find_units(model, x)
    assert {
        unit.name: (
            unit.width,
            " ".join(sorted({f"{s.tensor}:{s.dim}" for s in unit.slots if s.purpose != "count"})),
        )
        for unit in found
    } == units
    reasons = {f.name: f.reason for f in found.frozen if f.reason != "network output"}
    assert reasons.keys() == (frozen or {}).keys()
    assert all(reasons[name].startswith(reason) for name, reason in (frozen or {}).items())
    check_plans(model, found, x)


def check_plans(model: nn.Module, found: Units, *inputs: Tensor) -> None:
    """Cut each unit alone and all at random, and count what is left."""
    cost, generator = CostTable(found), np.random.default_rng(0)
    dense = np.array(found.dense_widths)
    least = np.array([unit.widths[0] for unit in found])
    alone = [np.where(np.arange(len(found)) == u, least, dense) for u in range(len(found))]
    for widths in (*alone, *(generator.integers(least, dense + 1) for _ in range(3))):
        kept = widths.tolist()
        small = slice_model(model, found, kept)
        assert verify(model, small, found, kept, inputs) < 1e-5
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            small(*inputs)
        assert cost.macs(kept) * 2 == counter.get_total_flops()
        assert cost.params(kept) == sum(p.numel() for p in small.parameters())


def check_widths(
    model: nn.Module,
    x: Tensor,
    units: dict[str, tuple[int, int]],
    frozen: dict[str, str] | None = None,
) -> Units:
    """As :func:`check`, where ``units`` has the width and granularity of each."""
    found = find_units(model, x)
    assert {unit.name: (unit.width, unit.granularity) for unit in found} == units
    reasons = {f.name: f.reason for f in found.frozen if f.reason != "network output"}
    assert reasons.keys() == (frozen or {}).keys()
    assert all(reasons[name].startswith(reason) for name, reason in (frozen or {}).items())
    check_plans(model, found, x)
    return found
