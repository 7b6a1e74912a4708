"""What a criterion may look at, and the sum over all that is tied into a unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from amc.task import Losses
from amc.tracing.ids import Purpose
from amc.tracing.trace import named_tensors
from amc.tracing.units import Units

Place = tuple[str, int]
"""A stored tensor's name, and one of its dimensions."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """A network, its units, and training images as it sees them."""

    model: nn.Module
    units: Units
    calibration: Iterable[Any] = ()
    loss: Losses | None = None
    seed: int = 0

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Every stored tensor by its name."""
        return dict(named_tensors(self.model))

    def places(self, purpose: Purpose) -> list[Place]:
        """Where the units' channels have this purpose, each place once."""
        uses = (
            (s.tensor, s.dim) for unit in self.units for s in unit.slots if s.purpose == purpose
        )
        return list(dict.fromkeys(uses))

    def summed(self, purpose: Purpose, values: Mapping[Place, np.ndarray]) -> list[np.ndarray]:
        """(width,) for each unit: its groups' values, over all places where they have this purpose.

        ``values`` holds a number for each index of a place; a place that is missing counts nothing.
        """
        totals = [np.zeros(unit.width) for unit in self.units]
        for total, unit in zip(totals, self.units, strict=True):
            for slot in unit.slots:
                if slot.purpose == purpose and (slot.tensor, slot.dim) in values:
                    total += values[slot.tensor, slot.dim][slot.index].sum(1)
        return totals


def exactly(tensor: Tensor) -> Tensor:
    """The values of a stored tensor, in double precision; complex ones stay complex."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float64))


def along(tensor: Tensor, dim: int) -> np.ndarray:
    """(size of ``dim``,) sums of real numbers over all other dimensions, in float64."""
    rows = tensor.detach().double().movedim(dim, 0)
    sums: np.ndarray = rows.reshape(len(rows), -1).sum(1).cpu().numpy()
    return sums
