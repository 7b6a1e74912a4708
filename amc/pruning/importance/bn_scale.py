"""The scales of BatchNorm."""

from __future__ import annotations

import numpy as np

from amc.pruning.importance.evidence import Evidence
from amc.pruning.importance.l1 import l1
from amc.pruning.importance.magnitude import norm_scales, normed, powers


def bn_scale(evidence: Evidence) -> list[np.ndarray]:
    """Sum of the absolute BatchNorm scales (Liu et al., Network Slimming, 2017).

    A unit without BatchNorm has the scores of :func:`l1`.
    """
    scales = powers(evidence, norm_scales(evidence), 1)
    pairs = zip(evidence.summed("affine", scales), l1(evidence), strict=True)
    chosen = zip(normed(evidence, scales), pairs, strict=True)
    return [scale if normed else weight for normed, (scale, weight) in chosen]
