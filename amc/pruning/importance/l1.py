"""The producers' absolute weights."""

from __future__ import annotations

import numpy as np

from amc.pruning.importance.evidence import Evidence
from amc.pruning.importance.magnitude import powers


def l1(evidence: Evidence) -> list[np.ndarray]:
    """Sum of the producers' absolute weights (Li et al., Pruning Filters, 2017)."""
    return evidence.summed("out", powers(evidence, evidence.places("out"), 1))
