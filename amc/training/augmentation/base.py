"""What a change of a whole batch is told, and what it has to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Part:
    """Which images a process changes: all of a batch, or its share of it."""

    total: int
    """Images of the batch. What is drawn is drawn for all of them, so that processes which share a
    batch do what one alone would."""
    first: int
    """Where in the batch this process's images begin."""
    epoch: int
    """From 1."""
    indices: Tensor | None = None
    """(n,) in int64: which of the training images they are; None where nobody said."""


class BatchChange(Protocol):
    """A change of a whole batch at once, on its device."""

    def __call__(self, images: Tensor, generator: torch.Generator, part: Part, /) -> Tensor:
        """The ``part``'s ``images`` (n, C, H, W), changed: uint8, of the same shape."""
