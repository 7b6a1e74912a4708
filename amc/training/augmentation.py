"""Changes of training images: uint8 to uint8, drawn from one seeded generator."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from amc.vision.data import ImageData


class BatchChange(Protocol):
    """A change of a whole batch at once, on its device."""

    def __call__(
        self, images: Tensor, generator: torch.Generator, /, *, epoch: int, part: slice
    ) -> Tensor:
        """``images`` is the ``part`` of a batch that this process has (of ``part.stop`` images or
        more): what is drawn is drawn for all images before, so that several processes together do
        what one would."""


class Augmentation:
    """The changes of a recipe, one after the other.

    Args:
        data: says what is done where the recipe does not, and how large images are.
        names: of :data:`amc.registry.AUGMENTATIONS`; None: those of the data set.
    """

    def __init__(self, data: ImageData, names: tuple[str, ...] | None) -> None:
        self.data = data
        self.names = names

    def __call__(
        self,
        images: Tensor,
        generator: torch.Generator,
        *,
        epoch: int,
        total: int,
        first: int = 0,
        indices=None,
    ) -> Tensor:
        """Changed ``images`` (n, C, H, W), uint8, on their device.

        They are those from ``first`` on of a batch of ``total``; ``generator`` draws for all.
        """
        return self.data.augment(images, generator)


class Mixing:
    """CutMix and MixUp of :mod:`torchvision.transforms.v2`, each in its share of the batches."""

    def __init__(self, shares: tuple[float, float], classes: int) -> None:
        self.shares = shares
        self.classes = classes

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Normalised images (N, C, H, W) and labels (N,), mixed: labels become (N, classes); or
        both as they are."""
        return images, labels
