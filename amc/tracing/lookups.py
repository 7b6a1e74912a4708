"""Rules of operations that pick positions by an index, or put values at them, never by channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amc.tracing.ids import compress, core
from amc.tracing.rules import Call, Tracer, opaque, rule


@rule("gather")
def gather(tracer: Tracer, call: Call) -> Any:
    """Values of ``x`` at an index along ``dim``: the other dimensions stay as they are."""
    ids, dim, index = tracer.of(call.args[0]), call.args[1], call.args[2]
    if core(ids).dim() and core(ids).shape[dim] > 1:
        return opaque(tracer, call)
    for other in range(ids.dim()):
        if other != dim % ids.dim():
            ids = ids.narrow(other, 0, index.shape[other])
    return core(ids).expand(call.out.shape)


@rule("scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_reduce")
def scatter(tracer: Tracer, call: Call) -> Any:
    """Values put at, or added to, positions of ``x`` along ``dim``: their channels meet its own."""
    ids, dim, values = tracer.of(call.args[0]), call.args[1], call.args[3]
    if not isinstance(values, Tensor):
        return ids
    below, above = core(ids), core(tracer.of(values))
    whole = all(
        values.shape[d] == ids.shape[d] or below.shape[d] == above.shape[d] == 1
        for d in range(ids.dim())
        if d != dim % ids.dim()
    )
    if not whole or any(x.shape[dim] > 1 for x in (below, above)):
        return opaque(tracer, call)
    tracer.ids.unite(below, above)
    return compress(torch.where(below != 0, below, above).expand(call.out.shape))
