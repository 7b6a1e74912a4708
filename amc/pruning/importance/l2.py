"""The norm of the producers' weights."""

from __future__ import annotations

import numpy as np

from amc.pruning.importance.evidence import Evidence
from amc.pruning.importance.magnitude import powers


def l2(evidence: Evidence) -> list[np.ndarray]:
    """Euclidean norm of the producers' weights (He et al., Soft Filter Pruning, 2018)."""
    squares = evidence.summed("out", powers(evidence, evidence.places("out"), 2))
    return [np.sqrt(total) for total in squares]
