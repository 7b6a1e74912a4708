"""Writes into a part of a tensor: ``y[:, :k] = f(x)`` changes what ``y`` holds.

PyTorch executes it as a write into another tensor that shares ``y``'s memory. So the ids of
everything that shares memory with what was written are laid out there, and read back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from amc.tracing.ids import compress


def sharing(written: Tensor, known: Iterable[Tensor]) -> Iterator[Tensor]:
    """Those of the ``known`` tensors that share memory with what was written, itself among them."""
    memory = written.untyped_storage().data_ptr()
    for other in known:
        if other.untyped_storage().data_ptr() == memory and other.dtype == written.dtype:
            yield other


def overlaid(tensor: Tensor, ids: Tensor, written: Tensor, new: Tensor) -> Tensor:
    """The ids of ``tensor`` where ``new`` ones lie over a part of its memory."""
    layout = torch.zeros(_extent(tensor, written), dtype=torch.int64)
    mine = layout.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    mine.copy_(ids)
    layout.as_strided(written.shape, written.stride(), written.storage_offset()).copy_(new)
    return compress(mine.clone())


def _extent(*tensors: Tensor) -> int:
    """Elements of memory up to the last that one of ``tensors`` holds."""
    ends = []
    for x in tensors:
        steps = zip(x.shape, x.stride(), strict=True)
        ends.append(x.storage_offset() + 1 + sum((n - 1) * step for n, step in steps if n))
    return int(max(ends))
