"""A task: what is pruned, and what makes a pruned network good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn

from amc.config import DataConfig, FinetuneConfig, ImportanceName, ModelConfig
from amc.modules.completing import initialise_lazy_, ordinary_
from amc.modules.unwrapping import unwrapped
from amc.tracing.inputs import Inputs

Losses = Callable[[nn.Module], Iterator[Tensor]]
"""Yields a network's mean training loss, a scalar, batch by batch."""


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images did."""

    number: int
    """From 1."""
    train_loss: float
    """Mean over the epoch's steps."""
    test_accuracy: float | None
    """On test images, after the epoch: for the report, never for a choice. Of the weights that
    would be kept (the average, where there is one)."""
    lr: float
    """Of the epoch's last step."""
    seconds: float
    """Training and measuring."""
    search_val_accuracy: float | None = None
    """Of the trained weights, on search-val images."""
    ema_accuracy: float | None = None
    """The same of the weights' exponential moving average; None where there is none."""
    train_accuracy: float | None = None
    """On the epoch's (changed) training images, as they were seen."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Mean of each part of the loss, before its weight: ``labels``, ``kd``, ..."""
    images_per_second: float | None = None
    """Of the training steps alone."""
    steps: int = 0
    """Steps since training began."""


@dataclass(frozen=True)
class Step:
    """Where training stands: what progress bars and TensorBoard are told after a step."""

    done: int
    total: int
    loss: float | None = None
    """None between two checks of the loss (each waits for the device)."""
    losses: Mapping[str, float] = field(default_factory=dict)
    lr: float = 0.0


Kept = Literal["pruned", "last", "ema", "best"]
"""Which weights training leaves: those that it began with, of its last step, their average, or of
the best epoch."""


@dataclass(frozen=True)
class Finetuned:
    """How a training went."""

    epochs: tuple[Epoch, ...]
    kept: Kept
    """What was best on search-val."""
    accuracies: Mapping[Kept, float]
    """On search-val, of each candidate."""
    recipe: FinetuneConfig
    """Nothing left open."""


class Train(Protocol):
    """Trains a sliced network in place, and leaves the weights that are best on search-val: its
    own, if nothing better was found."""

    def __call__(
        self,
        model: nn.Module,
        config: FinetuneConfig,
        /,
        *,
        folder: Path | None = None,
        resume: bool = False,
        on_epoch: Callable[[Epoch], None] | None = None,
        on_step: Callable[[Step], None] | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> Finetuned:
        """``folder`` gets checkpoints; ``resume`` goes on from the last sound one in it.
        ``on_note`` gets what was chosen for the user, and why."""


@dataclass(frozen=True, eq=False)
class Task:
    """What is pruned, and what makes a pruned network good."""

    model: nn.Module
    """The dense network, trained. Never changed."""
    example_inputs: Any
    """In any form of :class:`amc.Inputs`: batch 1, on the model's device."""
    evaluate: Callable[[nn.Module], Mapping[str, float]]
    """Search-val quality of a candidate (which it may recalibrate in place); the reward reads
    ``accuracy``, ``cross_entropy`` or ``kl`` from it."""
    test: Callable[[nn.Module], float] | None = None
    """Test accuracy, for the report only."""
    train: Train | None = None
    """Recovery training."""
    check_recipe: Callable[[FinetuneConfig], None] | None = None
    """Raises where a network of this task cannot be trained so: asked before a search, so that a
    wrong teacher or a layer that is not there does not show when it is over."""
    validate: Callable[[nn.Module], float] | None = None
    """Accuracy on all search-val images that finetuning looks at, of the network as it is: nothing
    is recalibrated."""
    notes: tuple[str, ...] = ()
    """What was chosen for the user and why, and what he should know before he begins."""
    images: Mapping[str, int] = field(default_factory=dict)
    """How many images of each split train, choose among weights, and test a network."""
    data: DataConfig | None = None
    """The images, their preparation as it was found; None where they have no description."""
    calibration: Iterable[Any] = ()
    """Batches of training inputs (each in a form of :class:`amc.Inputs`), on the model's device:
    for importance by ``activation`` and ``entropy``, and for ``reconstruct``."""
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

    def __post_init__(self) -> None:
        """The network as it was written: out of its wrappers, complete, its tensors ordinary."""
        model, notes = unwrapped(self.model)
        ordinary_(model)
        initialise_lazy_(model, lambda: Inputs.of(self.example_inputs, model).call(model))
        object.__setattr__(self, "model", model)
        object.__setattr__(self, "notes", (*self.notes, *notes))

    @property
    def importance(self) -> ImportanceName:
        """By what channels are ranked if nobody asks for anything else: the best criterion, on
        average over plans, of those that the task has the images for."""
        return "contribution" if self.loss is None else "taylor"
