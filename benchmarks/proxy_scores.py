"""What a plan scores before any finetuning, in every way that a reward could be read."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from amc.compute.precision import autocast, to_channels_last
from amc.pruning.reconstruction import Reconstructor
from amc.pruning.slicing.slice import slice_model
from amc.tracing.units import Units
from amc.vision.data import ImageData
from amc.vision.evaluator import calibration_images, recalibrate_

COUNTS = (250, 1000, 2000)
"""Search-val images that score a plan: prefixes of one random order."""
METRICS = ("accuracy", "cross_entropy", "kl")
MODES = {"stale": 0, "recalibrated": 256, "recalibrated on 1024": 1024, "reconstructed": 256}
"""How the sliced network is prepared, and the training images that re-estimate its BatchNorm."""
_BATCH = 250

Scores = dict[str, dict[str, list[float]]]
"""By mode and metric, one value for each of :data:`COUNTS`."""


class Scorer:
    """Scores plans of one network on one seeded draw of images."""

    def __init__(self, dense: nn.Module, units: Units, data: ImageData, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(data.search_val), generator=generator)[: max(COUNTS)]
        val = data.search_val.take(chosen)
        self._batches = _batches(data.normalise(val.images))
        self._labels = val.labels
        self._calibration = {
            count: _batches(calibration_images(data, count, generator))
            for count in sorted(set(MODES.values()))
            if count
        }
        self._dense, self._units = dense, units
        self._dense_log_probs = self._log_probs(dense)
        self._mend = Reconstructor(dense, units, self._calibration[MODES["reconstructed"]])

    def __call__(self, widths: Sequence[int]) -> Scores:
        """All scores of the plan that keeps ``widths``."""
        scores: Scores = {}
        for mode, count in MODES.items():
            small = slice_model(self._dense, self._units, widths).eval()
            if mode == "reconstructed":
                self._mend(small, widths)
            if count:
                with autocast("cpu", None):
                    recalibrate_(small, self._calibration[count])
            scores[mode] = self._scores(self._log_probs(small))
        return scores

    def _log_probs(self, model: nn.Module) -> Tensor:
        with torch.inference_mode(), autocast("cpu", None):
            logits = torch.cat([model(batch) for batch in self._batches]).float()
        return functional.log_softmax(logits, 1)

    def _scores(self, log_probs: Tensor) -> dict[str, list[float]]:
        dense = self._dense_log_probs
        of_each_image = {
            "accuracy": (log_probs.argmax(1) == self._labels).float(),
            "cross_entropy": functional.nll_loss(log_probs, self._labels, reduction="none"),
            "kl": (dense.exp() * (dense - log_probs)).sum(1),
        }
        return {
            metric: [values[:count].mean().item() for count in COUNTS]
            for metric, values in of_each_image.items()
        }


def _batches(images: Tensor) -> list[Tensor]:
    """Of equal length, to within one image: recalibration weighs batches, not images."""
    return list(to_channels_last(images).tensor_split(math.ceil(len(images) / _BATCH)))
