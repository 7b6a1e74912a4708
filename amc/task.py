"""A task: a trained network, how a candidate is scored, and how it is trained again.

The search knows nothing else, so that detectors, language models and anything else come in by the
same door as image classifiers: fill in the functions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import nn

from amc.config import DataConfig, EvaluateConfig, FinetuneConfig, ModelConfig
from amc.data import ImageData, load_data
from amc.evaluate import Evaluator, accuracy, calibration_images
from amc.finetune import Epoch, finetune
from amc.models import build_resolved
from amc.reconstruct import Reconstructor
from amc.slim import slice_model
from amc.units import Units

CALIBRATION_IMAGES = 256
"""Training images that least-squares reconstruction looks at."""


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
    calibration: Sequence[Any] = ()
    """Batches of training inputs (a tensor, or a tuple of positional arguments, each), on the
    model's device: what ``reconstruct`` needs."""
    reconstruct: bool = False
    """Mend every sliced network by least squares (:mod:`amc.reconstruct`) before it is scored."""
    config: ModelConfig | None = None
    """How to build the model; without it nothing can be saved for rebuilding."""


def image_task(
    model: ModelConfig | str,
    data: DataConfig | ImageData | str,
    evaluate: EvaluateConfig | None = None,
    *,
    weights: str | None = None,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
) -> Task:
    """Image classification: ``image_task("amc:resnet20", "imagefolder:DIR", weights="x.pth")``.

    ``seed`` draws the images that score and recalibrate. Raises what building the model and reading
    the data raise.
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
        config, num_classes=classes, in_channels=images.train.images.shape[1]
    )
    dense.to(device)
    evaluator = Evaluator.from_data(dense, images, settings, seed, device)
    generator = torch.Generator().manual_seed(seed)
    calibration = calibration_images(images, CALIBRATION_IMAGES, generator).to(device)

    def train(
        small: nn.Module,
        recipe: FinetuneConfig,
        *,
        on_epoch: Callable[[Epoch], None] | None = None,
        on_step: Callable[[int, int], None] | None = None,
    ) -> list[Epoch]:
        teacher = copy.deepcopy(dense) if recipe.distill_weight else None
        return finetune(
            small,
            images,
            recipe,
            teacher=teacher,
            device=device,
            on_epoch=on_epoch,
            on_step=on_step,
        )

    return Task(
        model=dense,
        example_inputs=images.example().to(device),
        evaluate=lambda candidate: asdict(evaluator(candidate)),
        test=lambda candidate: accuracy(
            candidate, images, images.test, bf16=settings.bf16, device=device
        ),
        train=train,
        calibration=calibration.split(settings.batch_size),
        reconstruct=settings.reconstruct,
        config=config,
    )


class PlanEvaluator:
    """Widths to quality: slice the dense network, score the result, never the same widths twice.

    Where ``task.reconstruct`` says so, what is scored is mended first, as the plan that is applied
    will be. Raises :class:`ConfigError` where that lacks calibration inputs.
    """

    def __init__(self, task: Task, units: Units) -> None:
        self._task = task
        self._units = units
        self._mend = (
            Reconstructor(task.model, units, task.calibration) if task.reconstruct else None
        )
        self._known: dict[tuple[int, ...], Mapping[str, float]] = {}

    def __call__(self, widths: Sequence[int]) -> Mapping[str, float]:
        """Quality of the network that keeps ``widths[u]`` groups of each unit."""
        key = tuple(widths)
        if key not in self._known:
            small = slice_model(self._task.model, self._units, key)
            if self._mend is not None:
                self._mend(small, key)
            self._known[key] = self._task.evaluate(small)
        return self._known[key]
