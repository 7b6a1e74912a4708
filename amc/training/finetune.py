"""Recovery training of a sliced network: never worse than what it began with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from amc.compute.crash_record import crash_record
from amc.config import FinetuneConfig
from amc.errors import DataError
from amc.modules.copying import copy_model
from amc.task import Epoch, Finetuned, Step
from amc.training.checkpoint import Checkpoints
from amc.training.devices import Devices
from amc.training.optimizer import MakeOptimizer
from amc.training.recipe import completed
from amc.training.run import Run
from amc.training.trainer import Trainer
from amc.vision.data import ImageData


def finetune(
    model: nn.Module,
    data: ImageData,
    config: FinetuneConfig,
    *,
    teacher: nn.Module | None,
    device: torch.device | str = "cpu",
    optimizer: MakeOptimizer | None = None,
    devices: Devices | None = None,
    folder: Path | None = None,
    resume: bool = False,
    safe: bool = False,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Finetuned:
    """Train ``model`` in place on ``data.train``; it ends with the weights that are best on
    search-val: of the last step, their moving average, or those that it began with.

    What ``config`` leaves open is chosen for the damage and the data (:mod:`recipe`,
    :mod:`learning_rate`). With a ``teacher`` the loss is ``distill_weight`` times what is learned
    from it (:mod:`amc.training.distillation`) plus the rest times cross-entropy.

    The same seed gives the same weights: shuffling and augmentation draw from a generator of their
    own, and layers that draw from PyTorch's global one (dropout) find it seeded, and restored
    afterwards. A training that is resumed from its checkpoints ends with the same bits.

    Args:
        model: the network to train; ends in eval mode, on ``device``.
        data: trained on ``train``, chosen by ``search_val``; ``test`` is only reported.
        config: the recipe.
        teacher: a better network, or None for plain cross-entropy; put in eval mode.
        device: where to train.
        optimizer: the user's own, in the place of the recipe's.
        devices: other processes that share the work.
        folder: for checkpoints; None: none are written.
        resume: go on from the newest checkpoint in ``folder``, if there is one.
        safe: contiguous layout everywhere.
        on_epoch: called after each epoch.
        on_step: called after each step.
        on_note: told what was chosen, and why, and what went wrong without ending the training.

    Raises:
        EvaluationError: the loss is not finite, with the learning rate that was asked for.
        DataError: there are fewer than two training images.
        RunError: the checkpoint is of another network or another recipe.
    """
    if len(data.train) < 2:
        raise DataError(f"{len(data.train)} training images: finetuning needs at least two")
    training = Run(
        model,
        data,
        config,
        teacher,
        torch.device(device),
        devices or Devices(),
        optimizer,
        on_epoch or (lambda _: None),
        on_step or (lambda _: None),
        on_note or (lambda _: None),
    )
    checkpoints = Checkpoints(folder if training.devices.first else None, training.note)
    # Every process reads what the first one wrote.
    saved = Checkpoints(folder, training.note).load() if resume else None
    writing = folder is not None and training.devices.first
    if folder is not None and saved is not None:
        safe = safe or bool(saved["safe"]) or training.died_natively(folder)
    safe = bool(training.devices.agreed(safe)[0])  # where the first one trains, its record begins
    with contextlib.ExitStack() as stack:
        if writing and folder is not None:
            with contextlib.suppress(OSError):  # checkpoints will say what is wrong
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(crash_record(folder))
        stack.enter_context(training.ready(safe))
        return training.run(checkpoints, saved)


def check_recipe(
    model: nn.Module,
    data: ImageData,
    config: FinetuneConfig,
    *,
    teacher: nn.Module | None,
    device: torch.device | str = "cpu",
    optimizer: MakeOptimizer | None = None,
) -> None:
    """Raise what :func:`finetune` would raise before its first step; ``model`` stays as it is."""
    asked, _ = completed(config, len(data.train))
    asked = asked.model_copy(update={"lr": asked.lr or 0.1, "compile": False})
    trainer = Trainer(
        copy_model(model),
        data,
        asked,
        teacher=teacher,
        device=torch.device(device),
        make=optimizer,
    )
    trainer.close()


@dataclass(frozen=True)
class Unfinished:
    """A training that was interrupted, as its newest checkpoint has it."""

    recipe: FinetuneConfig
    """As it was asked for."""
    steps: int
    """How many are done."""


def unfinished(folder: Path, on_note: Callable[[str], None] | None = None) -> Unfinished | None:
    """What there is in ``folder`` to go on from; None where there is nothing sound."""
    saved = Checkpoints(folder, on_note or (lambda _: None)).load()
    if saved is None:
        return None
    return Unfinished(FinetuneConfig.model_validate_json(saved["asked"]), saved["done"])
