"""Training images for the criteria that look at some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from amc.vision.data import ImageData, Split, stratified_indices

IMAGES, BATCH = 512, 4
"""How many images a criterion sees, and how many of them share a loss: few, because what single
images say of a channel cancels out in the mean over many."""


@dataclass(frozen=True)
class TrainingImages:
    """Batches of augmented, normalised training images: the same ones however often they are asked
    for; read once, when they are asked for first."""

    data: ImageData
    seed: int
    device: str = "cpu"

    def __iter__(self) -> Iterator[Tensor]:
        """The images of each batch, (N, C, H, W)."""
        return (images for images, _ in self.labelled())

    def losses(self, model: nn.Module) -> Iterator[Tensor]:
        """The cross-entropy of each batch."""
        for images, labels in self.labelled():
            yield functional.cross_entropy(model(images), labels)

    def labelled(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and their labels, every class in proportion, in an order of their own."""
        chosen, state = self._chosen
        generator = torch.Generator()
        generator.set_state(state)
        for indices in torch.arange(len(chosen)).split(BATCH):
            batch = chosen.take(indices)
            images = self.data.normalise(self.data.augment(batch.images, generator))
            yield images.to(self.device), batch.labels.to(self.device)

    @cached_property
    def _chosen(self) -> tuple[Split, Tensor]:
        """The images as they are stored, and the generator's state after they were drawn."""
        generator = torch.Generator().manual_seed(self.seed)
        train = self.data.train
        chosen = stratified_indices(train.labels, min(IMAGES, len(train)), generator)
        chosen = chosen[torch.randperm(len(chosen), generator=generator)]
        return train.take(chosen), generator.get_state()
