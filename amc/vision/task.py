"""Image classification as a task."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import nn

from amc.config import DataConfig, EvaluateConfig, FinetuneConfig, ModelConfig
from amc.models.factory import build_resolved
from amc.models.weights import tensors_sha256
from amc.models.teacher import teacher_model
from amc.task import Epoch, Finetuned, Step, Task
from amc.training.devices import devices
from amc.training.finetune import finetune
from amc.training.optimizer import MakeOptimizer
from amc.training.selection import Sample
from amc.vision.data import ImageData
from amc.vision.evaluator import Evaluator
from amc.vision.inference import accuracy
from amc.vision.sources import load_data
from amc.vision.training_images import TrainingImages

_PROBED = 256
"""Training images on which a unit's sensitivity is measured, and others for the statistics."""


def image_task(
    model: ModelConfig | str,
    data: DataConfig | ImageData | str,
    evaluate: EvaluateConfig | None = None,
    *,
    weights: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
    optimizer: MakeOptimizer | None = None,
) -> Task:
    """Image classification: ``image_task("amc:resnet20", "imagefolder:DIR", weights="x.pth")``.

    ``seed`` draws the images that score, recalibrate and rank channels. ``optimizer`` takes the
    place of the recipe's when networks are finetuned. Raises what building the
    model and reading the data raise.
    """
    config = ModelConfig(spec=model, weights=weights) if isinstance(model, str) else model
    if isinstance(data, str):
        data = DataConfig(spec=data)
    images = load_data(data, progress=progress) if isinstance(data, DataConfig) else data
    settings = evaluate or EvaluateConfig()
    classes = len(images.classes)
    # What the images tell about the network goes into its plan: nobody who builds it again from a
    # file has the images at hand.
    dense, config = build_resolved(
        config, num_classes=classes, in_channels=images.example().shape[1]
    )
    dense.to(device)
    ranking = TrainingImages(images, seed, device)
    score = _ImageQuality(Evaluator.from_data(dense, images, settings, seed, device))

    @cache  # only a search asks, and it costs a forward of the dense network
    def prober() -> Evaluator:
        seen = replace(images, search_val=images.train)
        few = settings.model_copy(update={"images": _PROBED, "calibration_images": _PROBED})
        return Evaluator.from_data(dense, seen, few, seed + 1, device)

    @cache
    def check() -> Sample:
        count = FinetuneConfig().check_images
        return Sample(images, images.search_val, count, 0, torch.device(device), "auto")

    def train(
        small: nn.Module,
        recipe: FinetuneConfig,
        *,
        folder: Path | None = None,
        resume: bool = False,
        safe: bool = False,
        on_epoch: Callable[[Epoch], None] | None = None,
        on_step: Callable[[Step], None] | None = None,
        on_note: Callable[[str], None] | None = None,
    ) -> Finetuned:
        return finetune(
            small,
            images,
            recipe,
            teacher=_teacher(recipe, dense, images) if recipe.distill_weight else None,
            device=device,
            optimizer=optimizer,
            devices=devices(),
            folder=folder,
            resume=resume,
            safe=safe,
            on_epoch=on_epoch,
            on_step=on_step,
            on_note=on_note,
        )

    return Task(
        model=dense,
        example_inputs=images.example().to(device),
        evaluate=score,
        test=lambda candidate: accuracy(
            candidate, images, images.test, bf16=settings.bf16, device=device
        ),
        train=train,
        validate=lambda candidate: check().score(candidate.to(device)).accuracy,
        calibration=ranking,
        loss=ranking.losses,
        probe=lambda candidate: prober()(candidate).kl,
        divergence=lambda candidate: prober().divergences(candidate),
        reconstruct=settings.reconstruct,
        config=config,
        data_sha256=lambda: tensors_sha256(score.evaluator.images()),
    )


def _teacher(recipe: FinetuneConfig, dense: nn.Module, images: ImageData) -> nn.Module:
    """The dense network, or the better one of the recipe."""
    if recipe.teacher is None:
        return copy.deepcopy(dense)
    channels = images.example().shape[1]
    return teacher_model(recipe.teacher, num_classes=len(images.classes), in_channels=channels)


@dataclass(frozen=True, eq=False)
class _ImageQuality:
    """``Task.evaluate`` for images: an object, because worker processes are sent it."""

    evaluator: Evaluator

    def __call__(self, candidate: nn.Module) -> Mapping[str, float]:
        return asdict(self.evaluator(candidate))
