"""Image classification as a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import nn

from amc.compute.layout import contiguous_layers
from amc.config import DataConfig, EvaluateConfig, FinetuneConfig, ModelConfig
from amc.models.teacher import teacher_model
from amc.models.weights import tensors_sha256
from amc.modules.copying import copy_model
from amc.task import Epoch, Finetuned, Step, Task
from amc.training.devices import devices
from amc.training.finetune import check_recipe, finetune
from amc.training.optimizer import MakeOptimizer
from amc.training.selection import Sample
from amc.vision.checks import check_fit, check_task, dense_line
from amc.vision.data import ImageData
from amc.vision.evaluator import Evaluator
from amc.vision.inference import accuracy
from amc.vision.opened import open_both
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
    check: bool = False,
    recorded: bool = False,
) -> Task:
    """Image classification: ``image_task("amc:resnet20", "imagefolder:DIR", weights="x.pth")``.

    ``seed`` draws the images that score, recalibrate and rank channels; ``optimizer`` takes the
    place of the recipe's when networks are finetuned. How images are prepared is as ``data`` says,
    otherwise as the network or the data set does (:mod:`amc.vision.preprocessing`): ``Task.notes``
    says what it is, and ``Task.data`` has it filled in. With ``check`` the notes also warn of what
    does not look right (:mod:`amc.vision.checks`), which takes about as long as scoring one plan.
    ``recorded``: ``data`` is of a run that goes on, and the network is not asked.

    Raises what building the model and reading the data raise, and :class:`EvaluationError` where
    the network does not fit the images.
    """
    config = ModelConfig(spec=model, weights=weights) if isinstance(model, str) else model
    settings = evaluate or EvaluateConfig()
    opened = open_both(config, data, recorded, progress)
    dense, config, images, notes = opened.dense, opened.config, opened.images, opened.notes
    outputs = check_fit(dense, config.spec, images, device)
    ranking = TrainingImages(images, seed, device)
    score = _ImageQuality(Evaluator.from_data(dense, images, settings, seed, device))
    known = score.evaluator.dense_quality.accuracy, min(settings.images, len(images.search_val))
    if check:
        notes += check_task(
            dense, images, config, *known, outputs, seed=seed, bf16=settings.bf16, device=device
        )
    else:
        notes += (dense_line(*known),)

    @cache  # only a search asks, and it costs a forward of the dense network
    def prober() -> Evaluator:
        seen = replace(images, search_val=images.train)
        few = settings.model_copy(update={"images": _PROBED, "calibration_images": _PROBED})
        return Evaluator.from_data(dense, seen, few, seed + 1, device)

    @cache
    def looked_at() -> Sample:
        count = FinetuneConfig().check_images
        return Sample(images, images.search_val, count, 0, torch.device(device), "auto")

    def validate(candidate: nn.Module) -> float:
        candidate.to(device)
        with contiguous_layers(candidate, score.evaluator.contiguous):
            return looked_at().score(candidate).accuracy

    def check_training(recipe: FinetuneConfig) -> None:
        if recipe.epochs:
            teacher = _teacher(recipe, dense, images) if recipe.distill_weight else None
            check_recipe(dense, images, recipe, teacher=teacher, device=device, optimizer=optimizer)

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
        check_recipe=check_training,
        validate=validate,
        calibration=ranking,
        loss=ranking.losses,
        probe=lambda candidate: prober()(candidate).kl,
        divergence=lambda candidate: prober().divergences(candidate),
        reconstruct=settings.reconstruct,
        config=config,
        notes=notes,
        data=opened.data,
        images={
            "train": len(images.train),
            "search_val": min(FinetuneConfig().check_images, len(images.search_val)),
            "test": len(images.test),
        },
        data_sha256=lambda: tensors_sha256(score.evaluator.images()),
    )


def _teacher(recipe: FinetuneConfig, dense: nn.Module, images: ImageData) -> nn.Module:
    """The dense network, or the better one of the recipe."""
    if recipe.teacher is None:
        return copy_model(dense)
    channels = images.example().shape[1]
    return teacher_model(recipe.teacher, num_classes=len(images.classes), in_channels=channels)


@dataclass(frozen=True, eq=False)
class _ImageQuality:
    """``Task.evaluate`` for images: an object, because worker processes are sent it."""

    evaluator: Evaluator

    def __call__(self, candidate: nn.Module) -> Mapping[str, float]:
        return asdict(self.evaluator(candidate))
