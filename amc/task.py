"""A task: what is pruned, and what makes a pruned network good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from amc.config import FinetuneConfig, ImportanceName, ModelConfig

Losses = Callable[[nn.Module], Iterator[Tensor]]
"""Yields a network's mean training loss, a scalar, batch by batch."""


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images did."""

    number: int
    """From 1."""
    train_loss: float
    """Mean over the epoch's steps."""
    test_accuracy: float
    """On the whole test split, after the epoch: for the report, never for a choice."""
    lr: float
    """Of the epoch's last step."""
    seconds: float
    """Training and testing."""


class Train(Protocol):
    """Trains a sliced network in place and returns what happened, epoch by epoch."""

    def __call__(
        self,
        model: nn.Module,
        config: FinetuneConfig,
        /,
        *,
        on_epoch: Callable[[Epoch], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[Epoch]:
        """``on_step`` gets the steps done and their total."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is pruned, and what makes a pruned network good."""

    model: nn.Module
    """The dense network, trained. Never changed."""
    example_inputs: Any
    """A tensor, or a tuple of positional arguments: batch 1, on the model's device."""
    evaluate: Callable[[nn.Module], Mapping[str, float]]
    """Search-val quality of a candidate (which it may recalibrate in place); the reward reads
    ``accuracy``, ``cross_entropy`` or ``kl`` from it."""
    test: Callable[[nn.Module], float] | None = None
    """Test accuracy, for the report only."""
    train: Train | None = None
    """Recovery training."""
    calibration: Iterable[Any] = ()
    """Batches of training inputs (each a tensor, or a tuple of positional arguments), on the
    model's device: for importance by ``activation`` and ``entropy``, and for ``reconstruct``."""
    loss: Losses | None = None
    """Yields the mean training loss of the network that it is given, with its gradient, batch by
    batch: for importance by ``taylor``."""
    probe: Callable[[nn.Module], float] | None = None
    """How far the outputs of a candidate (which it may recalibrate in place) are from the dense
    network's, on few training images: asked once for each unit and for a few plans, of which one
    is to begin with."""
    divergence: Losses | None = None
    """Yields what ``probe`` measures, of the network as it is given, with the gradient, batch by
    batch: asked in a few plans, for what each unit is worth there."""
    reconstruct: bool = False
    """Mend every sliced network by least squares (:mod:`amc.pruning.reconstruction`) before it is
    scored."""
    config: ModelConfig | None = None
    """How to build the model; without it nothing can be saved for rebuilding."""
    data_sha256: Callable[[], str] | None = None
    """Hash of what ``evaluate`` scores on: a search is resumed on the same data only. Without it
    nothing is checked."""

    @property
    def importance(self) -> ImportanceName:
        """By what channels are ranked if nobody asks for anything else: the best criterion, on
        average over plans, of those that the task has the images for."""
        return "contribution" if self.loss is None else "taylor"
