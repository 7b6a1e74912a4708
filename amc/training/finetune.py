"""Recovery training of a sliced network, with the dense network as teacher."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from amc.compute.precision import autocast, to_channels_last
from amc.config import FinetuneConfig
from amc.errors import EvaluationError
from amc.task import Epoch
from amc.vision.data import ImageData, Split
from amc.vision.inference import accuracy

CHECK_STEPS = 20
"""Steps between two checks that the loss is a number (each waits for the device)."""


def finetune(
    model: nn.Module,
    data: ImageData,
    config: FinetuneConfig,
    *,
    teacher: nn.Module | None,
    device: torch.device | str = "cpu",
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> list[Epoch]:
    """Train ``model`` in place on ``data.train``; the last epoch is the result.

    SGD with Nesterov momentum (:func:`make_optimizer`), linear warm-up, then a cosine to zero, step
    by step (:func:`learning_rate`). With a ``teacher`` and ``config.distill_weight`` above 0 the
    loss is :func:`distillation_loss`, otherwise cross-entropy.

    The same seed gives the same weights: shuffling and augmentation draw from a generator of their
    own, and layers that draw from PyTorch's global one (dropout) find it seeded, and restored
    afterwards.

    Args:
        model: the network to train; ends in eval mode, on ``device``.
        data: trained on ``train``; ``test`` is measured after each epoch.
        config: the recipe.
        teacher: the dense network, or None for plain cross-entropy; put in eval mode.
        device: where to train.
        on_epoch: called after each epoch.
        on_step: called after each step with the steps done and the steps of the whole training.

    Raises:
        EvaluationError: the loss is not finite.
    """
    device = torch.device(device)
    model.to(device).to(memory_format=torch.channels_last)
    if teacher is not None:
        teacher.to(device).eval()
    training = _Training(model, teacher, data, config, device, on_step)
    history = []
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        for number in range(1, config.epochs + 1):
            start = time.perf_counter()
            train_loss, lr = training.epoch()
            test = accuracy(model, data, data.test, bf16=config.bf16, device=device)
            history.append(Epoch(number, train_loss, test, lr, time.perf_counter() - start))
            if on_epoch is not None:
                on_epoch(history[-1])
    # Back to the layout that files of weights want.
    model.to(memory_format=torch.contiguous_format).eval()
    return history


class _Training:
    """The state that outlives an epoch: optimizer, generator, step number."""

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module | None,
        data: ImageData,
        config: FinetuneConfig,
        device: torch.device,
        on_step: Callable[[int, int], None] | None,
    ) -> None:
        self.model = model
        self.teacher = teacher
        self.data = data
        self.config = config
        self.device = device
        self.on_step = on_step
        self.optimizer = make_optimizer(model, config)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.epoch_steps = math.ceil(len(data.train) / config.batch_size)
        self.done = 0

    def epoch(self) -> tuple[float, float]:
        """One pass over the training images: their mean loss, and the last learning rate."""
        self.model.train()
        total_steps = self.config.epochs * self.epoch_steps
        warmup_steps = round(self.config.warmup_epochs * self.epoch_steps)
        loss_sum = torch.zeros((), device=self.device)
        lr = 0.0
        # Batches of equal length, to within one image: no last batch too small for BatchNorm.
        order = torch.randperm(len(self.data.train), generator=self.generator)
        for indices in order.tensor_split(self.epoch_steps):
            lr = learning_rate(self.done, total_steps, warmup_steps, self.config.lr)
            loss_sum += self._step(self.data.train.take(indices), lr)
            self.done += 1
            if self.done % CHECK_STEPS == 0 or self.done % self.epoch_steps == 0:
                _check(loss_sum, self.done, lr)
            if self.on_step is not None:
                self.on_step(self.done, total_steps)
        return loss_sum.item() / self.epoch_steps, lr

    def _step(self, batch: Split, lr: float) -> Tensor:
        """One update; returns the loss before it."""
        images = self.data.augment(batch.images.to(self.device), self.generator)
        images = to_channels_last(self.data.normalise(images))
        labels = batch.labels.to(self.device)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss = self._loss(images, labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _loss(self, images: Tensor, labels: Tensor) -> Tensor:
        bf16 = self.config.bf16
        with autocast(self.device, bf16):
            logits = self.model(images).float()
        if self.teacher is None or self.config.distill_weight == 0:
            return functional.cross_entropy(logits, labels)
        # Not inference_mode: the loss saves the teacher's logits for its backward.
        with torch.no_grad(), autocast(self.device, bf16):
            teacher_logits = self.teacher(images).float()
        return distillation_loss(
            logits,
            teacher_logits,
            labels,
            weight=self.config.distill_weight,
            temperature=self.config.distill_temperature,
        )


def make_optimizer(model: nn.Module, config: FinetuneConfig) -> torch.optim.SGD:
    """Nesterov SGD; biases and norms' parameters (all that have one dimension) do not decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.momentum > 0,
        fused=True,
    )


def learning_rate(step: int, total_steps: int, warmup_steps: int, peak: float) -> float:
    """Rate of the step number ``step`` (from 0): linear up to ``peak``, then a cosine to zero.

    The last of ``total_steps`` has a small positive rate, so that it is not wasted.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(total_steps - warmup_steps, 1)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def distillation_loss(
    logits: Tensor, teacher_logits: Tensor, labels: Tensor, weight: float, temperature: float
) -> Tensor:
    """``weight * T^2 * KL(teacher / T || student / T) + (1 - weight) * cross-entropy``.

    Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, section 2: T^2
    keeps the softened gradients on the scale of the hard ones. Logits are (N, classes).
    """
    soft = functional.kl_div(
        functional.log_softmax(logits / temperature, 1),
        functional.log_softmax(teacher_logits / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    hard = functional.cross_entropy(logits, labels)
    return weight * temperature**2 * soft + (1 - weight) * hard


def _check(loss_sum: Tensor, step: int, lr: float) -> None:
    if not math.isfinite(loss_sum.item()):
        raise EvaluationError(
            f"finetuning: the loss is not finite at step {step} (learning rate {lr:.3g}); lower lr"
        )
