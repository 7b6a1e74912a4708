"""Padding: what it puts beside channels, as ResNet's shortcut of option A does, stands for others.

He et al., "Deep Residual Learning", CVPR 2016: where a stage has more channels than the one before,
a shortcut without parameters adds zeros. The padded channels meet those of the branch beside it:
where they are removed the code has to pad less, which it can if it takes the number from an
attribute of a module. Otherwise they stay; those between them are free in any case.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from amc.tracing.ids import compress, core
from amc.tracing.relations import Padded
from amc.tracing.rules import Call, Tracer, reason_of, rule


@rule("pad", "constant_pad_nd")
def pad(tracer: Tracer, call: Call) -> Tensor:
    """Constants without a channel of their own; the modes that repeat values repeat their ids."""
    named = call.operation is torch.ops.aten.pad.default and len(call.args) > 2
    mode = call.args[2] if named else "constant"
    amounts, ids = call.args[1], tracer.of(call.args[0])
    # Ids are integers, for which the reflecting kernels do not exist.
    padded = functional.pad(ids.to(torch.float64), amounts, mode).to(torch.int64)
    if mode == "constant" and not tracer.ids.weak(ids):
        for number in range(len(amounts) // 2):
            dim = ids.dim() - 1 - number
            if core(ids).shape[dim] > 1:
                padded = _beside(tracer, call, padded, dim, amounts[2 * number :][:2])
    return compress(padded)


def _beside(tracer: Tracer, call: Call, padded: Tensor, dim: int, amounts: list[int]) -> Tensor:
    """Weak ids for the constants that were put before and after channels along ``dim``."""
    before, after = (max(0, amount) for amount in amounts)
    size = padded.shape[dim]
    places = torch.cat([torch.arange(before), torch.arange(size - after, size)])
    if not len(places):
        return padded
    fresh = tracer.ids.fresh(len(places), weak=True)
    reason = f"the code fixes how many constants it pads with: {reason_of(tracer, call)}"
    tracer.ids.later(Padded(fresh, tracer.of(call.args[0]), reason))
    shape = [len(places) if d == dim else n for d, n in enumerate(padded.shape)]
    own = fresh.view(-1, *[1] * (padded.dim() - dim - 1)).expand(shape)
    return padded.index_copy(dim, places, own)
