"""The masked twin: the dense network, in which nobody reads the channels that a plan removes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from amc.pruning.slicing.slice import Kept, kept_indices
from amc.tracing.execution import Execution
from amc.tracing.labels import CONTRACTIONS
from amc.tracing.producers import WEIGHTED
from amc.tracing.trace import named_tensors, unfused_attention
from amc.tracing.units import Units

Cuts = list[tuple[int, Tensor]]
"""Dimensions, and the indices along each."""


@contextmanager
def masked(model: nn.Module, units: Units, widths: Sequence[int]) -> Iterator[nn.Module]:
    """The masked twin: ``model`` itself, for a while, in inference mode.

    Every weight slice that consumes a removed channel is zero inside the context, and norms and
    other statistics over channels are computed over those that are kept. On leaving, the weights
    are the ones from before: they are exchanged, never written to.
    """
    tensors = dict(named_tensors(model))
    kept = kept_indices(units, widths)
    cut = {(name, dim): index for name, dims in kept.items() for dim, index in dims}
    readers = {(s.tensor, s.dim) for unit in units for s in unit.slots if s.purpose == "in"}
    readers = {(name, dim) for name, dim in readers & cut.keys() if name in tensors}
    saved = {name: tensors[name].data for name, _ in readers}
    try:
        for name, dim in readers:
            weight = tensors[name]
            keep = torch.zeros(weight.shape[dim], dtype=weight.dtype, device=weight.device)
            keep[cut[name, dim]] = 1
            weight.data = weight.data * keep.view(-1, *[1] * (weight.dim() - dim - 1))
        with torch.inference_mode(), unfused_attention(), _KeptOnly(kept):
            yield model
    finally:
        for name, original in saved.items():
            tensors[name].data = original


class _KeptOnly(Execution):
    """Computes statistics over channels, those of norms among them, from the kept ones.

    ``kept``: for the place of a statistic the dimension of its operand, and the kept indices.
    """

    def __init__(self, kept: Kept) -> None:
        super().__init__()
        self._kept = kept

    def execute(
        self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], place: str
    ) -> Any:
        found = self._kept.get(place)
        if found is None:
            return operation(*args, **kwargs)
        return _over(operation, args, kwargs, found)


def _over(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], cuts: Cuts) -> Any:
    """``operation`` over some of the indices along dimensions of what it works on."""
    kind = str(operation.overloadpacket)
    if kind in WEIGHTED:  # the weight, of which the other columns become zero
        weight = _widened(_cut(args[1], cuts), cuts, args[1])
        return operation(args[0], weight, *args[2:], **kwargs)
    if kind in CONTRACTIONS:
        *first, left, right = args
        inner = max(0, right.dim() - 2)
        factors = _cut(left, cuts), _cut(right, [(inner, index) for _, index in cuts])
        return operation(*first, *factors, **kwargs)
    x, *rest = args
    if kind in _OVER_SHAPES:
        shape, *scales = rest
        before = x.dim() - len(shape)
        own = [(dim - before, index) for dim, index in cuts]
        shape = [next((len(i) for d, i in own if d == dim), n) for dim, n in enumerate(shape)]
        rest = [shape, *(_cut(s, own) if isinstance(s, Tensor) else s for s in scales)]
    elif kind == "aten.group_norm":
        groups, *scales = rest
        own = [(0, index) for _, index in cuts]
        rest = [groups, *(_cut(s, own) if isinstance(s, Tensor) else s for s in scales)]
    out = operation(_cut(x, cuts), *rest, **kwargs)
    if kind not in _SCALED:
        return out
    first, *others = out if isinstance(out, tuple) else (out,)
    wide = _widened(first, cuts, x)
    return (wide, *others) if others else wide


def _cut(x: Tensor, cuts: Cuts) -> Tensor:
    for dim, index in cuts:
        x = x.index_select(dim, index.to(x.device))
    return x


def _widened(small: Tensor, cuts: Cuts, like: Tensor) -> Tensor:
    """``small`` where the cuts took it from, and zeros elsewhere, in the shape of ``like``."""
    for dim, index in reversed(cuts):
        shape = [like.shape[d] if d == dim else n for d, n in enumerate(small.shape)]
        small = small.new_zeros(shape).index_copy(dim, index.to(small.device), small)
    return small


_OVER_SHAPES = {"aten.layer_norm", "aten.rms_norm"}
"""Norms that are told the shape over which they go."""
_SCALED = {*_OVER_SHAPES, "aten.group_norm", "aten.batch_norm", "aten._weight_norm_interface"}
"""Operations that scale their operand by its statistics, and so keep its shape."""
