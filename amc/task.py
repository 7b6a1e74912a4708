"""A task: a trained network, how a candidate is scored, and how it is trained again.

The search knows nothing else, so that detectors, language models and anything else come in by the
same door as image classifiers: fill in the functions.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any, Protocol

from torch import nn

from amc.config import (
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    ImportanceName,
    ModelConfig,
)
from amc.data import ImageData, load_data
from amc.evaluate import Evaluator, accuracy
from amc.finetune import Epoch, finetune
from amc.importance import Losses, TrainingImages
from amc.models import build_resolved
from amc.plan import tensors_sha256
from amc.reconstruct import Reconstructor
from amc.slicing.slim import slice_model
from amc.tracing.units import Units

_PROBED = 256
"""Training images on which a unit's sensitivity is measured, and others for the statistics."""


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
    """Mend every sliced network by least squares (:mod:`amc.reconstruct`) before it is scored."""
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

    ``seed`` draws the images that score, recalibrate and rank channels. Raises what building the
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
        config, num_classes=classes, in_channels=images.train.images.shape[1]
    )
    dense.to(device)
    ranking = TrainingImages(images, seed, device)
    score = _ImageQuality(Evaluator.from_data(dense, images, settings, seed, device))

    @cache  # only a search asks, and it costs a forward of the dense network
    def prober() -> Evaluator:
        seen = replace(images, search_val=images.train)
        few = settings.model_copy(update={"images": _PROBED, "calibration_images": _PROBED})
        return Evaluator.from_data(dense, seen, few, seed + 1, device)

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
        evaluate=score,
        test=lambda candidate: accuracy(
            candidate, images, images.test, bf16=settings.bf16, device=device
        ),
        train=train,
        calibration=ranking,
        loss=ranking.losses,
        probe=lambda candidate: prober()(candidate).kl,
        divergence=lambda candidate: prober().divergences(candidate),
        reconstruct=settings.reconstruct,
        config=config,
        data_sha256=lambda: tensors_sha256(score.evaluator.images()),
    )


@dataclass(frozen=True, eq=False)
class _ImageQuality:
    """``Task.evaluate`` for images: an object, because worker processes are sent it."""

    evaluator: Evaluator

    def __call__(self, candidate: nn.Module) -> Mapping[str, float]:
        return asdict(self.evaluator(candidate))


class PlanEvaluator:
    """Widths to quality: slice the dense network, score the result, never the same widths twice.

    Where ``task.reconstruct`` says so, what is scored is mended first, as the plan that is applied
    will be. Raises :class:`ConfigError` where that lacks calibration inputs.
    """

    def __init__(self, task: Task, units: Units) -> None:
        # Not the whole task: workers are sent this object, and its training is none of theirs.
        self._model, self._evaluate = task.model, task.evaluate
        self._units = units
        self._mend = (
            Reconstructor(task.model, units, task.calibration) if task.reconstruct else None
        )
        self._known: dict[tuple[int, ...], Mapping[str, float]] = {}

    def __call__(self, widths: Sequence[int]) -> Mapping[str, float]:
        """Quality of the network that keeps ``widths[u]`` groups of each unit."""
        key = tuple(widths)
        if key not in self._known:
            small = slice_model(self._model, self._units, key)
            if self._mend is not None:
                self._mend(small, key)
            self._known[key] = self._evaluate(small)
        return self._known[key]
