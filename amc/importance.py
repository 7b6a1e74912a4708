"""Channel importance: which groups of a unit to remove first.

A criterion is a function ``(unit, weights) -> (width,) scores``; add one here, and its name to
:data:`CRITERIA`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from amc.errors import ConfigError
from amc.ids import Role
from amc.units import Unit, Units


@dataclass(frozen=True)
class Weights:
    """A model's parameters by name, and which of them are the scales of its BatchNorms."""

    tensors: dict[str, Tensor]
    scales: frozenset[str]

    def power(self, unit: Unit, role: Role, exponent: int = 2) -> np.ndarray:
        """(width,) sum of |w| ** exponent over the slices that produce (or read) each group."""
        total = np.zeros(unit.width)
        for slot in unit.slots:
            weight = self.tensors.get(slot.tensor)
            if slot.role == role and weight is not None and weight.dim() > 1:
                total += self._sums(weight, slot.dim, exponent)[slot.index].sum(1)
        return total

    def scale_power(self, unit: Unit) -> np.ndarray:
        """(width,) sum of squared BatchNorm scales of each group; 1 where there is no BatchNorm."""
        slots = [slot for slot in unit.slots if slot.tensor in self.scales]
        if not slots:
            return np.ones(unit.width)
        total = np.zeros(unit.width)
        for slot in slots:
            total += self._sums(self.tensors[slot.tensor], slot.dim, 2)[slot.index].sum(1)
        return total

    @staticmethod
    def _sums(weight: Tensor, dim: int, exponent: int) -> np.ndarray:
        rows = weight.detach().double().movedim(dim, 0)
        sums: np.ndarray = rows.reshape(len(rows), -1).abs().pow(exponent).sum(1).cpu().numpy()
        return sums


def l1(unit: Unit, weights: Weights) -> np.ndarray:
    """Sum of the producers' absolute weights (Li et al., Pruning Filters, 2017)."""
    return weights.power(unit, "out", 1)


def l2(unit: Unit, weights: Weights) -> np.ndarray:
    """Euclidean norm of the producers' weights (He et al., Soft Filter Pruning, 2018)."""
    norms: np.ndarray = np.sqrt(weights.power(unit, "out"))
    return norms


def contribution(unit: Unit, weights: Weights) -> np.ndarray:
    """Norm of the readers' weights times the BatchNorm scale in front of them.

    After BatchNorm a channel's deviation is its scale, whatever its own weights are; times the norm
    of what reads it, this is the size of what the next layers lose with the channel.
    """
    sizes: np.ndarray = np.sqrt(weights.power(unit, "in") * weights.scale_power(unit))
    return sizes


CRITERIA: dict[str, Callable[[Unit, Weights], np.ndarray]] = {
    "contribution": contribution,
    "l1": l1,
    "l2": l2,
}
"""Criteria by name."""


def score(model: nn.Module, units: Units, criterion: str) -> list[np.ndarray]:
    """One (width,) array of scores for each unit, in float64.

    Raises :class:`ConfigError` for an unknown criterion.
    """
    if criterion not in CRITERIA:
        raise ConfigError(f"unknown importance {criterion!r}; known are {', '.join(CRITERIA)}")
    scales = [f"{n}.weight" for n, module in model.named_modules() if isinstance(module, _NormBase)]
    weights = Weights(dict(model.named_parameters()), frozenset(scales))
    return [CRITERIA[criterion](unit, weights) for unit in units]
