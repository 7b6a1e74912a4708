"""Channel importance: which groups of a unit to remove first.

A criterion scores every index of one weight slice; a unit's score is the sum over its producers.
Each criterion is a function ``(weights, dim) -> (size of dim,) scores``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from amc.errors import ConfigError
from amc.units import Units

Criterion = Callable[[Tensor, int], Tensor]


def l1(weight: Tensor, dim: int) -> Tensor:
    """Sum of absolute weights (Li et al., Pruning Filters for Efficient ConvNets, 2017)."""
    return weight.movedim(dim, 0).flatten(1).abs().sum(1)


def l2(weight: Tensor, dim: int) -> Tensor:
    """Euclidean norm of the weights (He et al., Soft Filter Pruning, 2018)."""
    norms: Tensor = torch.linalg.vector_norm(weight.movedim(dim, 0).flatten(1), dim=1)
    return norms


CRITERIA: dict[str, Criterion] = {"l1": l1, "l2": l2}
"""Criteria by name."""


def score(model: nn.Module, units: Units, criterion: str) -> list[np.ndarray]:
    """One (width,) array of scores for each unit, in float64.

    Raises :class:`ConfigError` for an unknown criterion.
    """
    if criterion not in CRITERIA:
        raise ConfigError(f"unknown importance {criterion!r}; known are {', '.join(CRITERIA)}")
    tensors = dict(model.named_parameters())
    scores = []
    for unit in units:
        total = np.zeros(unit.width)
        for slot in unit.slots:
            if slot.role == "out" and tensors[slot.tensor].dim() > 1:
                weight = tensors[slot.tensor].detach().double()
                each = CRITERIA[criterion](weight, slot.dim).cpu().numpy()
                total += each[slot.index].sum(1)
        scores.append(total)
    return scores
