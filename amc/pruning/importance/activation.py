"""How large the activations of a channel are."""

from __future__ import annotations

import numpy as np
import torch

from amc.pruning.importance.evidence import Evidence
from amc.pruning.importance.readers import read_inputs
from amc.pruning.importance.signals import added_up


def activation(evidence: Evidence) -> list[np.ndarray]:
    """Mean absolute activation, added up over all readers (Molchanov et al. 2017, section 2.2)."""
    inputs = read_inputs(evidence, evidence.calibration, torch.abs)
    return added_up(evidence, {place: x.mean(0) for place, x in inputs.items()})
