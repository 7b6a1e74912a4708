"""What a plan would gain from more of each unit, by one pass of gradients."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from amc.modules.copying import copy_model
from amc.pruning.importance.evidence import Evidence
from amc.pruning.importance.taylor import gate_gradients
from amc.pruning.slicing.slice import kept_indices
from amc.task import Losses
from amc.tracing.units import Units

_BAND = 1 / 3
"""How much more of a unit is looked at, as a fraction of what it keeps."""


def growth_gains(
    model: nn.Module, units: Units, widths: Sequence[int], divergence: Losses
) -> np.ndarray:
    """(units,) how much the logarithm of the divergence falls for an e-fold of each kept width.

    In the network that reads only what ``widths`` keep, each group that is gone has a gate at 0,
    and the derivative by it says what its return would change. Of a unit that keeps k groups, the
    mean over the next k / 3 in order of importance stands for all: k times this, over the
    divergence; NaN where nothing is gone. First order, so it promises too much, of all units alike.

    BatchNorm works with the statistics of the batch, because those of a pruned network are
    re-estimated; other norms over channels take those that are gone as well.

    ``divergence`` yields how far the outputs of the network that it is given are from the dense
    one's, with the gradient, batch by batch. ``model`` is unchanged. Raises :class:`ConfigError`
    where it yields nothing or has no gradient.
    """
    evidence, pruned = Evidence(model, units), copy_model(model).eval()
    for module in pruned.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    readers = set(evidence.places("in"))
    read = {
        name: {
            dim: torch.zeros(units.sizes[name][dim]).index_fill(0, kept, 1.0)
            for dim, kept in dims
            if (name, dim) in readers
        }
        for name, dims in kept_indices(units, widths).items()
    }
    total, slopes = 0.0, [np.zeros(unit.width) for unit in units]
    for loss, gates in gate_gradients(evidence, pruned, divergence, read):
        total += loss
        for slope, gate in zip(slopes, gates, strict=True):
            slope += gate
    gains = np.full(len(units), np.nan)
    for i, (unit, width, slope) in enumerate(zip(units, widths, slopes, strict=True)):
        fold = max(width, 1)
        if width < unit.width and total > 0:
            band = slope[unit.order][width : width + max(1, round(_BAND * fold))]
            gains[i] = -band.mean() * fold / total
    return gains
