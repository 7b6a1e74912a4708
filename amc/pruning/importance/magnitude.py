"""Sizes of weights, as several criteria read them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch.nn.modules.batchnorm import _NormBase

from amc.pruning.importance.evidence import Evidence, Place, along, exactly


def powers(evidence: Evidence, places: Iterable[Place], exponent: int) -> dict[Place, np.ndarray]:
    """Sums of |w| ** exponent along each place."""
    tensors = evidence.tensors
    return {
        (name, dim): along(exactly(tensors[name]).abs() ** exponent, dim) for name, dim in places
    }


def norm_scales(evidence: Evidence) -> list[Place]:
    """The scales of all BatchNorms that channels of a unit pass through."""
    modules = evidence.model.named_modules()
    names = {f"{name}.weight" for name, module in modules if isinstance(module, _NormBase)}
    return [place for place in evidence.places("affine") if place[0] in names]


def normed(evidence: Evidence, scales: dict[Place, np.ndarray]) -> list[bool]:
    """Of each unit whether one of ``scales`` is its own."""
    return [any((s.tensor, s.dim) in scales for s in unit.slots) for unit in evidence.units]
