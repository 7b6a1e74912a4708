"""Kinds of numbers: how much of a difference is rounding in each, and networks in another kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import sqrt

import torch
from torch import Tensor, nn

from amc.modules.copying import copy_model
from amc.tracing.trace import named_tensors

Casts = Mapping[torch.dtype, torch.dtype]
"""From kinds of numbers to the kinds that take their place; others stay."""

_LAYERS, _TERMS = 256, 4096
TOLERANCES: Mapping[torch.dtype, float] = {
    kind: torch.finfo(kind).eps * sqrt(_LAYERS * terms)
    for kind, terms in {
        torch.float64: _TERMS,
        torch.float32: _TERMS,
        torch.float16: 1,
        torch.bfloat16: 1,
    }.items()
}
"""Largest error that rounding explains, relative to the largest output: 2.3e-13, 1.2e-4, 1.6e-2 and
0.13.

Rounding errors of n steps, each at most eps, are nearly independent and grow as sqrt(n) eps (Higham
and Mary, A New Approach to Probabilistic Rounding Error Analysis, 2019). The steps are 256 layers
in sequence, and in each of them a sum of 4096 terms; kernels add up half-precision numbers in
single precision, so that there only a layer's result is rounded. Common networks are at a tenth of
this or below; a wrong channel gives errors near 1."""

SINGLE: Casts = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.complex32: torch.complex64,
}
"""To single precision at least."""
DOUBLE: Casts = {
    **dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), torch.float64),
    **dict.fromkeys((torch.complex32, torch.complex64), torch.complex128),
}
"""To double precision."""
FLOAT32: Casts = {
    **dict.fromkeys((torch.float16, torch.bfloat16, torch.float64), torch.float32),
    **dict.fromkeys((torch.complex32, torch.complex128), torch.complex64),
}
"""To exactly single precision."""
_REAL = {
    torch.complex32: torch.float16,
    torch.complex64: torch.float32,
    torch.complex128: torch.float64,
}


def rounding(tensors: Iterable[Tensor]) -> float:
    """What :data:`TOLERANCES` allow a comparison in which these took part: that of their coarsest
    kind, of complex numbers that of their parts; without any single precision's."""
    kinds = (_REAL.get(tensor.dtype, tensor.dtype) for tensor in tensors)
    known = [TOLERANCES[kind] for kind in kinds if kind in TOLERANCES]
    return max(known, default=TOLERANCES[torch.float32])


def cast(tensor: Tensor, casts: Casts) -> Tensor:
    """``tensor`` in the kind that ``casts`` names for its own; itself where they name none."""
    return tensor.to(casts.get(tensor.dtype, tensor.dtype))


def cast_model(model: nn.Module, casts: Casts) -> nn.Module:
    """A copy with the stored tensors of these kinds cast; ``model`` itself where it has none.

    (``Module.to`` would turn complex numbers into real ones.)
    """
    if all(tensor.dtype not in casts for _, tensor in named_tensors(model)):
        return model
    twin = copy_model(model)
    for _, tensor in named_tensors(twin):
        tensor.data = cast(tensor.data, casts)
    return twin
