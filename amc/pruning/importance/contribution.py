"""What the next layers lose with a channel, by the weights alone."""

from __future__ import annotations

import numpy as np

from amc.pruning.importance.evidence import Evidence
from amc.pruning.importance.magnitude import norm_scales, normed, powers


def contribution(evidence: Evidence) -> list[np.ndarray]:
    """Norm of the readers' weights times the BatchNorm scale in front of them.

    After BatchNorm a channel's deviation is its scale, whatever its own weights are; times the norm
    of what reads it, this is the size of what the next layers lose with the channel. Where there is
    no BatchNorm the scale counts as 1. A channel of which all producers are zero is a constant, its
    bias, and scores 0 with any norm: the others tell images apart.
    """
    scales = powers(evidence, norm_scales(evidence), 2)
    read = evidence.summed("in", powers(evidence, evidence.places("in"), 2))
    rows = zip(read, evidence.summed("affine", scales), normed(evidence, scales), strict=True)
    lost = [np.sqrt(weight * (scale if normed else 1.0)) for weight, scale, normed in rows]
    written = evidence.summed("out", powers(evidence, evidence.places("out"), 2))
    return [np.where(_alive(out), score, 0.0) for score, out in zip(lost, written, strict=True)]


def _alive(squares: np.ndarray) -> np.ndarray:
    """Which producers are not zero: whose norm single precision tells from the largest's."""
    floor = np.finfo(np.float32).eps ** 2 * squares.max(initial=0.0)
    alive: np.ndarray = squares > floor
    return alive
