"""One step after the other: what outlives a step of training, and how it is saved."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from amc.compute.precision import autocast_for, to_channels_last
from amc.config import FinetuneConfig
from amc.errors import ConfigError, EvaluationError
from amc.modules.copying import Copyable
from amc.task import Step
from amc.training.augmentation import Augmentation, Mixing
from amc.training.checkpoint import State
from amc.training.devices import Devices
from amc.training.distillation.teaching import Teaching
from amc.training.freezing import Freezing
from amc.training.optimizer import MakeOptimizer, make_optimizer, make_schedule
from amc.training.recipe import epoch_steps, total_steps
from amc.vision.data import ImageData, Split

CHECK_STEPS = 20
"""Steps between two checks that the loss is a number (each waits for the device)."""


class Trainer:
    """Trains ``model`` on ``data.train`` step by step, and averages its weights.

    Args:
        model: on its device, in the layout in which it is to be trained.
        data: trained on ``train``.
        config: a recipe with nothing left open.
        teacher: on the same device, in eval mode; None: labels alone.
        device: of all of them.
        make: the user's optimizer, in the place of the recipe's.
        devices: other processes that share the work. On GPUs ``self.model`` is then a copy of
            ``model`` (:meth:`Devices.synchronised`).

    Raises :class:`ConfigError` where batches are too small for so many processes.
    """

    def __init__(
        self,
        model: nn.Module,
        data: ImageData,
        config: FinetuneConfig,
        *,
        teacher: nn.Module | None,
        device: torch.device,
        make: MakeOptimizer | None = None,
        devices: Devices | None = None,
    ) -> None:
        self.devices = devices or Devices()
        self.model = model = self.devices.synchronised(model)
        self.config = config
        self.data = data
        self.device = device
        self.epoch_steps = epoch_steps(config, len(data.train))
        self._check_parts()
        self.steps = total_steps(config, len(data.train))
        self.done = 0
        # The average first: a copy must not have the hooks of what follows.
        self.average = (
            AveragedModel(
                cast(nn.Module, Copyable(model)),
                multi_avg_fn=get_ema_multi_avg_fn(config.ema),
                use_buffers=True,
            )
            if config.ema
            else None
        )
        self._freezing = Freezing(model, config)
        self._teaching = self._taught_by(teacher)
        learners = [model] if self._teaching is None else [model, self._teaching]
        self.optimizer = make_optimizer(learners, config, make)
        self.schedule = make_schedule(self.optimizer, config, self.steps, self.epoch_steps)
        self._called = torch.compile(model) if config.compile else model
        self.generator = torch.Generator().manual_seed(config.seed)
        self._augment = Augmentation(data, config.augment)
        self._mix = Mixing(config.mix, len(data.classes))
        fp16 = config.precision == "fp16"
        self._scaler = torch.amp.GradScaler(device.type, enabled=fp16)
        self._order = torch.empty(0, dtype=torch.int64)
        self._sums: dict[str, Tensor] = {}
        self.last_lr = 0.0

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.done >= self.steps

    @property
    def epoch(self) -> int:
        """Number of the epoch that the next step belongs to, from 1."""
        return self.done // self.epoch_steps + 1

    def run_epoch(
        self, on_step: Callable[[Step], None], on_pause: Callable[[], None]
    ) -> dict[str, float]:
        """Train to the end of the epoch, or of the training: the means over its steps.

        ``on_pause`` is called after every step but the last, when the state is sound: for
        checkpoints. Raises :class:`EvaluationError` where the loss is not a number.
        """
        within = self.done % self.epoch_steps
        if within == 0:
            self._order = torch.randperm(len(self.data.train), generator=self.generator)
            self._sums = {}
        self.model.train()
        self._freezing.begin(self.epoch)
        number, last = self.epoch, min(self.epoch * self.epoch_steps, self.steps)
        order = list(self._order.tensor_split(self.epoch_steps))[within : within + last - self.done]
        parts = [self.devices.part(len(indices)) for indices in order]
        mine = [indices[part] for indices, part in zip(order, parts, strict=True)]
        for batch, indices, part in zip(self.data.train.batches(mine), order, parts, strict=True):
            self._step(batch, indices, part, number)
            self.done += 1
            checked = self.done % CHECK_STEPS == 0 or self.done == last
            on_step(self._report(checked))
            if self.done < last:
                on_pause()
        # Of statistics that each process has of its part, the first one's count.
        for network in [self.model] + ([self.average] if self.average is not None else []):
            self.devices.share_(network)
        return self._means()

    def close(self) -> None:
        """Take away what training has put on the networks."""
        self._freezing.end()
        if self._teaching is not None:
            self._teaching.close()

    # -- state -----------------------------------------------------------------------------------

    def state(self) -> State:
        """All that the next step depends on."""
        cuda = self.device.type == "cuda"
        return {
            "done": self.done,
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "teaching": self._teaching.state_dict() if self._teaching is not None else None,
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
            "generator": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "cuda_random": torch.cuda.get_rng_state(self.device) if cuda else None,
            "order": self._order,
            "sums": self._sums,
        }

    def restore(self, state: State) -> None:
        """Stand where ``state`` was taken."""
        self.done = state["done"]
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if self._teaching is not None:
            self._teaching.load_state_dict(state["teaching"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self._scaler.load_state_dict(state["scaler"])
        self.generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])
        if state["cuda_random"] is not None:
            torch.cuda.set_rng_state(state["cuda_random"], self.device)
        self._order = state["order"]
        self._sums = {name: value.to(self.device) for name, value in state["sums"].items()}

    # -- a step ----------------------------------------------------------------------------------

    def _step(self, batch: Split, indices: Tensor, part: slice, epoch: int) -> None:
        """One update, and the average after it. A batch of which too little could be read is left
        out."""
        weight, whole = len(batch), len(indices)
        if weight < 2:
            if self.devices.count == 1:
                self.schedule.step()
                return
            batch, weight = self._black(), 0  # the others wait for this one
        self.devices.draw_apart(self.config.seed, self.done)
        changed = self._augment(
            batch.images.to(self.device),
            self.generator,
            epoch=epoch,
            total=whole,
            first=part.start,
            indices=indices[part][: len(batch)],
        )
        labels = batch.labels.to(self.device)
        images, targets = self._mix(self.data.normalise(changed), labels, self.generator)
        images = to_channels_last(images)
        losses, logits = self._losses(images, targets)
        loss = self._weighted(losses)
        self.optimizer.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()
        accuracy = (logits.argmax(1) == labels).float().mean()
        told = {**losses, "loss": loss, "accuracy": accuracy}
        told = self.devices.averaged(self.optimizer, told, weight)
        if self.config.clip_norm is not None:
            self._scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.last_lr = float(self.optimizer.param_groups[0]["lr"])
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        self._add(told)

    def _black(self) -> Split:
        shape = self.data.example(2).shape
        return Split(torch.zeros(shape, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64))

    def _check_parts(self) -> None:
        """BatchNorm needs two images at least."""
        images, count = len(self.data.train) // self.epoch_steps, self.devices.count
        if count > 1 and images < 2 * count:
            raise ConfigError(
                f"batches of {images} images are too small for {count} processes, each of which "
                f"needs two; start fewer, or give a larger --batch-size"
            )

    def _losses(self, images: Tensor, targets: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Each part of the loss, before its weight, and the logits (N, classes)."""
        with autocast_for(self.device, self.config.precision):
            logits = self._called(images)
        logits = logits.float()
        smoothing = self.config.label_smoothing
        losses = {"labels": functional.cross_entropy(logits, targets, label_smoothing=smoothing)}
        if self._teaching is not None:
            losses |= self._teaching.losses(logits, images, targets, self._temperature())
        return losses, logits.detach()

    def _weighted(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Hinton, Vinyals and Dean 2015, section 2: what is taught, and the labels, weighted."""
        if self._teaching is None:
            return losses["labels"]
        weight = self.config.distill_weight
        taught = torch.stack([loss for name, loss in losses.items() if name != "labels"]).sum()
        return weight * taught + (1 - weight) * losses["labels"]

    def _temperature(self) -> float:
        """Of this step: from the first to the last one of the recipe, in equal steps."""
        first, last = self.config.distill_temperature[0], self.config.distill_temperature[-1]
        return first + (last - first) * self.done / max(self.steps - 1, 1)

    def _taught_by(self, teacher: nn.Module | None) -> Teaching | None:
        if teacher is None or self.config.distill_weight == 0:
            return None
        example = to_channels_last(self.data.example(2).to(self.device))
        precision = self.config.precision
        return Teaching(
            self.model,
            teacher,
            example,
            self.config,
            lambda: autocast_for(self.device, precision),
        ).to(self.device)

    # -- what is told ----------------------------------------------------------------------------

    def _add(self, values: Mapping[str, Tensor]) -> None:
        for name, one in values.items():
            value = one.detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._sums["steps"] = self._sums.get("steps", torch.zeros(())) + 1

    def _means(self) -> dict[str, float]:
        """Of the steps since the epoch began."""
        sums = dict(self._sums)
        steps = max(float(sums.pop("steps", torch.zeros(()))), 1.0)
        return {name: float(value / steps) for name, value in sums.items()}

    def _report(self, checked: bool) -> Step:
        lr = self.last_lr
        if not checked:
            return Step(self.done, self.steps, lr=lr)
        means = self._means()
        loss = means.get("loss", 0.0)
        if not math.isfinite(loss):
            raise EvaluationError(
                f"finetuning: the loss is not finite at step {self.done} (learning rate "
                f"{lr:.3g}); lower lr"
            )
        parts = {k: v for k, v in means.items() if k not in ("loss", "accuracy")}
        return Step(self.done, self.steps, loss, parts, lr)
