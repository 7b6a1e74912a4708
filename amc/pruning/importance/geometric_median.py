"""What the other filters of a unit could replace."""

from __future__ import annotations

import numpy as np
import torch

from amc.pruning.importance.evidence import Evidence, exactly
from amc.tracing.units import Slot


def geometric_median(evidence: Evidence) -> list[np.ndarray]:
    """Sum of the distances to the unit's other filters (He et al., FPGM, 2019, equation 6).

    A filter near the geometric median of all says what the others say. The filter of a group of
    channels is all its channels' together; the distances in each producer are added up.
    """

    def distances(slot: Slot) -> np.ndarray:
        rows = exactly(evidence.tensors[slot.tensor]).movedim(slot.dim, 0)
        rows = torch.view_as_real(rows) if rows.is_complex() else rows  # of equal distances
        index = torch.from_numpy(slot.index).to(rows.device)
        filters = rows[index].flatten(1)
        sums: np.ndarray = torch.cdist(filters, filters).sum(1).cpu().numpy()
        return sums

    return [
        np.sum([distances(slot) for slot in unit.slots if slot.purpose == "out"], axis=0)
        for unit in evidence.units
    ]
