"""What the next layers lose with a channel, by the weights alone."""

from __future__ import annotations

import numpy as np

from amc.pruning.importance.evidence import Evidence
from amc.pruning.importance.magnitude import norm_scales, normed, powers


def contribution(evidence: Evidence) -> list[np.ndarray]:
    """Norm of the readers' weights times the BatchNorm scale in front of them.

    After BatchNorm a channel's deviation is its scale, whatever its own weights are; times the norm
    of what reads it, this is the size of what the next layers lose with the channel. Where there is
    no BatchNorm the scale counts as 1.
    """
    scales = powers(evidence, norm_scales(evidence), 2)
    read = evidence.summed("in", powers(evidence, evidence.places("in"), 2))
    rows = zip(read, evidence.summed("affine", scales), normed(evidence, scales), strict=True)
    return [np.sqrt(weight * (scale if normed else 1.0)) for weight, scale, normed in rows]
