"""Which weights training leaves: the best on search-val, those that it began with included."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from amc.compute.precision import autocast_for, to_channels_last
from amc.task import Kept
from amc.vision.data import ImageData, Images, Split, stratified_indices

_BATCH = 125


@dataclass(frozen=True, order=True)
class Score:
    """How good weights are; the greater the better: at equal accuracy cross-entropy decides."""

    accuracy: float
    minus_cross_entropy: float


class Sample:
    """A seeded, stratified sample of a split, read once, on which networks are scored as they are.

    Args:
        split: at least one image.
        count: how many are drawn, at most.
    """

    def __init__(
        self,
        data: ImageData,
        split: Images,
        count: int,
        seed: int,
        device: torch.device,
        precision: str,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        chosen = stratified_indices(split.labels, min(count, len(split)), generator)
        self._images: Split = split.take(chosen)
        self._data, self._device, self._precision = data, device, precision

    def score(self, model: nn.Module) -> Score:
        """Of ``model``, on its device, which is left in the mode that it is in."""
        training = model.training
        model.eval()
        with torch.inference_mode(), autocast_for(self._device, self._precision):
            parts = [self._logits(model, part) for part in self._parts()]
        model.train(training)
        logits, labels = torch.cat(parts), self._images.labels
        correct = int((logits.argmax(1) == labels).sum())
        cross_entropy = functional.cross_entropy(logits, labels)
        return Score(correct / len(labels), -float(cross_entropy))

    def _parts(self) -> list[Split]:
        order = torch.arange(len(self._images)).split(_BATCH)
        return list(self._images.batches(order))

    def _logits(self, model: nn.Module, part: Split) -> Tensor:
        images = self._data.normalise(part.images.to(self._device))
        logits: Tensor = model(to_channels_last(images))
        return logits.float().cpu()


State = Mapping[str, Tensor]


@dataclass
class Candidate:
    """Weights that may be kept."""

    name: Kept
    score: Score
    state: State

    @classmethod
    def of(cls, name: Kept, model: nn.Module, score: Score) -> Candidate:
        """A copy of the weights that ``model`` has now."""
        return cls(name, score, copy.deepcopy(model.state_dict()))


def best(candidates: list[Candidate]) -> Candidate:
    """The one of the best score; at equal scores the last."""
    return max(reversed(candidates), key=lambda one: one.score)
