"""How much a channel tells images apart."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from amc.pruning.importance.evidence import Evidence
from amc.pruning.importance.readers import read_inputs
from amc.pruning.importance.signals import added_up
from amc.tracing.inputs import Inputs

BINS = 32
"""Of the histogram of a channel's mean activations."""


def entropy(evidence: Evidence) -> list[np.ndarray]:
    """Entropy, in nats, of a channel's mean activation over images (Luo and Wu 2017, section 3.2).

    Each channel's means, one an image, fall into :data:`BINS` equal bins between their least and
    their largest; one that says the same of all images has 0. Added up over all readers. Images run
    one by one, as no tensor inside a network says which of its entries are of the same image.
    """
    batches = (Inputs.of(batch, evidence.model) for batch in evidence.calibration)
    singles = (single for batch in batches for single in one_by_one(batch))
    inputs = read_inputs(evidence, singles, lambda x: x)
    return added_up(evidence, {place: histogram_entropy(x) for place, x in inputs.items()})


def one_by_one(inputs: Inputs) -> Iterator[Inputs]:
    """Each example alone; inputs that are not all tensors of one length stay as they are."""
    tensors = inputs.tensors
    plain = len(tensors) == len(inputs.args) + len(inputs.kwargs)
    if plain and all(map(inputs.batched, tensors)):
        for row in range(inputs.batch or 0):
            yield inputs.map(partial(torch.narrow, dim=0, start=row, length=1))
    else:
        yield inputs


def histogram_entropy(values: Tensor) -> Tensor:
    """(channels,) entropies of the columns of ``values``, (images, channels)."""
    low, high = values.amin(0), values.amax(0)
    widths = (high - low).clamp_min(torch.finfo(values.dtype).tiny)
    bins = ((values - low) / widths * BINS).long().clamp_(0, BINS - 1)
    counts = values.new_zeros(BINS, values.shape[1])
    counts.scatter_add_(0, bins, torch.ones_like(values))
    entropies = torch.special.entr(counts / len(values)).sum(0)
    return torch.where(widths.isfinite(), entropies, torch.nan)
