"""What a channel carries, where the next layers read it.

That place is the same for every kind of unit, behind all norms and activations: what the readers
see is what they lose.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from amc.errors import ConfigError
from amc.pruning.importance.evidence import Evidence, Place


def added_up(evidence: Evidence, found: Mapping[Place, Tensor]) -> list[np.ndarray]:
    """(width,) of each unit: what was found at its readers, added up."""
    for unit in evidence.units:
        if not any((s.tensor, s.dim) in found for s in unit.slots if s.purpose == "in"):
            raise ConfigError(
                f"the activation of {unit.name} was not seen: no layer that reads it runs on the "
                "task's calibration; give batches that reach it, or choose another importance"
            )
    return evidence.summed("in", {place: x.cpu().numpy() for place, x in found.items()})
