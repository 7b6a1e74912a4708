"""No criterion at all: the control that every other one has to beat."""

from __future__ import annotations

import numpy as np

from amc.pruning.importance.evidence import Evidence


def random(evidence: Evidence) -> list[np.ndarray]:
    """Uniform in [0, 1), drawn from the seed alone."""
    generator = np.random.default_rng(evidence.seed)
    return [generator.random(unit.width) for unit in evidence.units]
