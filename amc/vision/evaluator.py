"""Score a sliced network: recalibrate BatchNorm, then one forward over search-val."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from amc.compute.layout import contiguous_layers, unsound_layers
from amc.compute.precision import autocast, has_fast_bf16, to_channels_last
from amc.config import EvaluateConfig
from amc.errors import EvaluationError
from amc.vision.data import ImageData, Images, Split, stratified_indices
from amc.vision.inference import accuracy as accuracy

_PART = 32
"""Images in a batch that keeps what its gradient needs: that is many times what a forward does."""


@dataclass(frozen=True)
class Quality:
    """How good a candidate is on search-val."""

    accuracy: float
    """Fraction of the images whose largest logit is their label's."""
    cross_entropy: float
    """Mean over the images, in nats."""
    kl: float
    """Mean KL(dense || candidate) of the predicted distributions, in nats per image."""


def recalibrate_(model: nn.Module, batches: Sequence[Tensor]) -> None:
    """Re-estimate the running statistics of every BatchNorm in place, then leave all in eval mode.

    The statistics become plain averages over ``batches``, inputs of the model (of equal length, if
    the averages are to weigh images equally). They should be augmented as in training: on CIFAR
    ResNet-20 the dense network's own KL after recalibration on 512 images is .08 with plain images
    (whose borders no crop has zeroed) and .004 with augmented ones.

    Only BatchNorm layers run in train mode: dropout stays off. Without BatchNorm, or without
    batches, there is no forward, and the statistics stay as they are.
    """
    model.eval()
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats
    ]
    if not norms or not batches:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
        norm.train()
    try:
        with torch.inference_mode():
            for batch in batches:
                model(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()


class Evaluator:
    """Scores candidates against the dense network on a fixed set of search-val images.

    The dense network's logits are computed once, in the same numeric mode as the candidates'.

    Args:
        dense: the unpruned network; moved to ``device`` and left in eval mode.
        val: normalised search-val images (N, ...), float32.
        labels: their labels (N,), int64.
        calibration: normalised training images (M, ...) that re-estimate BatchNorm statistics;
            none (M = 0) keeps the statistics that the candidate carries.
        batch_size: images in one forward, at most; batches are of equal length.
        bf16: autocast to bfloat16; None: wherever the hardware computes in it.
        device: where candidates are evaluated.

    Raises:
        EvaluationError: where there are no images, or a dense logit is not finite.
    """

    contiguous: tuple[str, ...]
    """Layers whose kernels for channels_last are unsound on this machine, at any width."""
    seconds: dict[str, float]
    """Of the last call: ``recalibrate`` and ``forward``."""
    dense_quality: Quality
    """Of the dense network, with the statistics that it came with; its ``kl`` is 0."""

    def __init__(
        self,
        dense: nn.Module,
        val: Tensor,
        labels: Tensor,
        calibration: Tensor,
        *,
        batch_size: int = 250,
        bf16: bool | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        if len(val) == 0 or len(val) != len(labels):
            raise EvaluationError(
                f"{len(val)} images and {len(labels)} labels: give one label for each image, "
                "and at least one image"
            )
        self.device = torch.device(device)
        self.bf16 = has_fast_bf16(self.device) if bf16 is None else bf16
        self._val = self._batches(val, batch_size)
        self._calibration = self._batches(calibration, batch_size)
        self._labels = labels.to(self.device)
        self.seconds = {}
        dense = dense.to(self.device).eval()
        self.contiguous = unsound_layers(dense, self._val[0], backward=False, bf16=self.bf16)
        with contiguous_layers(dense, self.contiguous):
            logits = self._logits(dense)
        if not bool(torch.isfinite(logits).all()):
            raise EvaluationError(
                "the dense network's logits are not finite; check its weights and the "
                "normalisation of the images, or set bf16 = false"
            )
        self._dense_log_probs = functional.log_softmax(logits, 1)
        self.dense_quality = self._quality(logits)

    @classmethod
    def from_data(
        cls,
        dense: nn.Module,
        data: ImageData,
        config: EvaluateConfig,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Draw seeded, stratified subsets: scores from search-val, calibration from train.

        Takes all images of a split that has fewer than ``config`` asks for. The calibration images
        are augmented, because the statistics that they replace were learned on augmented ones.
        """
        generator = torch.Generator().manual_seed(seed)
        val = _subset(data.search_val, config.images, generator)
        calibration = calibration_images(data, config.calibration_images, generator)
        return cls(
            dense,
            data.normalise(val.images),
            val.labels,
            calibration,
            batch_size=config.batch_size,
            bf16=config.bf16,
            device=device,
        )

    def __call__(self, model: nn.Module) -> Quality:
        """Recalibrate ``model`` in place, then score it.

        Raises :class:`EvaluationError` where a logit is not finite.
        """
        model.to(self.device).eval()
        start = time.perf_counter()
        with contiguous_layers(model, self.contiguous):
            with autocast(self.device, self.bf16):
                recalibrate_(model, self._calibration)
            self._synchronise()
            middle = time.perf_counter()
            quality = self._quality(self._logits(model))
        self.seconds = {"recalibrate": middle - start, "forward": time.perf_counter() - middle}
        if not math.isfinite(quality.cross_entropy + quality.kl):
            raise EvaluationError(
                f"the candidate's logits are not finite (cross-entropy {quality.cross_entropy}, "
                f"KL {quality.kl}); set bf16 = false or prune less"
            )
        return quality

    def divergences(self, model: nn.Module) -> Iterator[Tensor]:
        """Mean KL(dense || model) of one small batch after the other, with its gradient; ``model``
        is taken as it is, on its device, and nothing is recalibrated. On a CPU the images are laid
        out contiguously: each network has widths of its own, and a kernel for the gradient that is
        faulty in channels_last would have to be looked for each time."""
        val = torch.cat(self._val)
        if self.device.type == "cpu":
            val = val.clone(memory_format=torch.contiguous_format)
        parts = val.tensor_split(math.ceil(len(val) / _PART))
        for part, dense in zip(parts, self._dense_log_probs.tensor_split(len(parts)), strict=True):
            with autocast(self.device, self.bf16):
                logits = model(part).float()
            log_probs = functional.log_softmax(logits, 1)
            yield functional.kl_div(log_probs, dense, reduction="batchmean", log_target=True)

    def images(self) -> dict[str, Tensor]:
        """What candidates are scored on: ``val`` and its ``labels``, ``calibration`` (if any)."""
        batches = {"val": self._val, "calibration": self._calibration}
        return {"labels": self._labels} | {k: torch.cat(v) for k, v in batches.items() if v}

    def _batches(self, images: Tensor, batch_size: int) -> list[Tensor]:
        """Batches of equal length, to within one image, ready on the device."""
        count = math.ceil(len(images) / batch_size)
        ready = to_channels_last(images.to(self.device))
        return list(ready.tensor_split(count)) if count else []

    def _logits(self, model: nn.Module) -> Tensor:
        """(N, classes) in float32."""
        with torch.inference_mode(), autocast(self.device, self.bf16):
            return torch.cat([model(batch) for batch in self._val]).float()

    def _quality(self, logits: Tensor) -> Quality:
        log_probs = functional.log_softmax(logits, 1)
        kl = functional.kl_div(
            log_probs, self._dense_log_probs, reduction="batchmean", log_target=True
        )
        correct = int((logits.argmax(1) == self._labels).sum())
        cross_entropy = functional.nll_loss(log_probs, self._labels)
        return Quality(correct / len(logits), cross_entropy.item(), kl.item())

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def calibration_images(data: ImageData, count: int, generator: torch.Generator) -> Tensor:
    """``count`` training images, stratified, augmented and normalised, for recalibration."""
    return data.normalise(data.augment(_subset(data.train, count, generator).images, generator))


def _subset(split: Images, count: int, generator: torch.Generator) -> Split:
    return split.take(stratified_indices(split.labels, min(count, len(split)), generator))
