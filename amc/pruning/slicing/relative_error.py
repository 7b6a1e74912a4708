"""How far two networks are apart: the largest difference over the largest expected value.

That is the one measure of every comparison with a masked twin and of every exported file. It says
nothing of single small outputs: they may be off by as much as rounding moves the largest one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from amc.tracing.inputs import is_inexact


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """Of tensors of one shape, real or complex; of whole numbers 0 where all are equal, otherwise
    infinite.

    NaN where a value is.
    """
    if not expected.numel():
        return 0.0
    if not is_inexact(expected):
        return 0.0 if torch.equal(actual, expected) else math.inf
    scale = float(expected.abs().max()) or 1.0
    return float((actual - expected).abs().max()) / scale


def worst_error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest :func:`relative_error` of outputs; infinite for other shapes, NaN for NaN."""
    if [x.shape for x in actual] != [x.shape for x in expected]:
        return math.inf
    errors = [relative_error(a, b) for a, b in zip(actual, expected, strict=True)]
    return math.nan if any(map(math.isnan, errors)) else max(errors, default=0.0)
