"""How much a channel tells images apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amc.pruning.importance.evidence import Evidence
from amc.pruning.importance.readers import read_inputs
from amc.pruning.importance.signals import added_up
from amc.tracing.trace import as_inputs

BINS = 32
"""Of the histogram of a channel's mean activations."""


def entropy(evidence: Evidence) -> list[np.ndarray]:
    """Entropy, in nats, of a channel's mean activation over images (Luo and Wu 2017, section 3.2).

    Each channel's means, one an image, fall into :data:`BINS` equal bins between their least and
    their largest; one that says the same of all images has 0. Added up over all readers. Images run
    one by one, as no tensor inside a network says which of its entries are of the same image.
    """
    inputs = read_inputs(evidence, one_by_one(evidence.calibration), lambda x: x)
    return added_up(evidence, {place: histogram_entropy(x) for place, x in inputs.items()})


def one_by_one(batches: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    """Batches of one; inputs that are not all tensors of one length stay as they are."""
    for batch in batches:
        inputs = as_inputs(batch)
        lengths = {x.shape[:1] if isinstance(x, Tensor) else None for x in inputs}
        if len(lengths) == 1 and lengths != {None}:
            yield from zip(*(x.split(1) for x in inputs), strict=True)
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
