"""Criteria that read the sizes of weights."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch.nn.modules.batchnorm import _NormBase

from amc.importance.evidence import Evidence, Place, along


def l1(evidence: Evidence) -> list[np.ndarray]:
    """Sum of the producers' absolute weights (Li et al., Pruning Filters, 2017)."""
    return evidence.summed("out", _powers(evidence, evidence.places("out"), 1))


def l2(evidence: Evidence) -> list[np.ndarray]:
    """Euclidean norm of the producers' weights (He et al., Soft Filter Pruning, 2018)."""
    squares = evidence.summed("out", _powers(evidence, evidence.places("out"), 2))
    return [np.sqrt(total) for total in squares]


def bn_scale(evidence: Evidence) -> list[np.ndarray]:
    """Sum of the absolute BatchNorm scales (Liu et al., Network Slimming, 2017).

    A unit without BatchNorm has the scores of :func:`l1`.
    """
    scales = _powers(evidence, _scales(evidence), 1)
    pairs = zip(evidence.summed("affine", scales), l1(evidence), strict=True)
    chosen = zip(_normed(evidence, scales), pairs, strict=True)
    return [scale if normed else weight for normed, (scale, weight) in chosen]


def contribution(evidence: Evidence) -> list[np.ndarray]:
    """Norm of the readers' weights times the BatchNorm scale in front of them.

    After BatchNorm a channel's deviation is its scale, whatever its own weights are; times the norm
    of what reads it, this is the size of what the next layers lose with the channel. Where there is
    no BatchNorm the scale counts as 1.
    """
    scales = _powers(evidence, _scales(evidence), 2)
    read = evidence.summed("in", _powers(evidence, evidence.places("in"), 2))
    rows = zip(read, evidence.summed("affine", scales), _normed(evidence, scales), strict=True)
    return [np.sqrt(weight * (scale if normed else 1.0)) for weight, scale, normed in rows]


def _powers(evidence: Evidence, places: Iterable[Place], exponent: int) -> dict[Place, np.ndarray]:
    """Sums of |w| ** exponent along each place."""
    tensors = evidence.tensors
    return {
        (name, dim): along(tensors[name].detach().double().abs() ** exponent, dim)
        for name, dim in places
    }


def _scales(evidence: Evidence) -> list[Place]:
    """The scales of all BatchNorms that channels of a unit pass through."""
    modules = evidence.model.named_modules()
    names = {f"{name}.weight" for name, module in modules if isinstance(module, _NormBase)}
    return [place for place in evidence.places("affine") if place[0] in names]


def _normed(evidence: Evidence, scales: dict[Place, np.ndarray]) -> list[bool]:
    """Of each unit whether one of ``scales`` is its own."""
    return [any((s.tensor, s.dim) in scales for s in unit.slots) for unit in evidence.units]
