"""Changes of a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor

from amc.training.augmentation.base import BatchChange, Part
from amc.vision.crop_and_flip import mirror, random_crop, random_mirror
from amc.vision.data import ImageData


def none(data: ImageData) -> BatchChange:  # noqa: ARG001 (as all others)
    """No change."""
    return lambda images, generator, part: images  # noqa: ARG005


def crop(data: ImageData) -> BatchChange:
    """Random crop after padding as the data set has it, otherwise by an eighth of the side."""
    height, width = data.example().shape[2:]
    padding = data.crop_padding or max(min(height, width) // 8, 1)
    return lambda images, generator, part: random_crop(
        images, padding, generator, part.total, part.first
    )


def flip(data: ImageData) -> BatchChange:  # noqa: ARG001 (as all others)
    """Mirrored at random."""
    return lambda images, generator, part: random_mirror(images, generator, part.total, part.first)


def alternating_flip(data: ImageData) -> BatchChange:
    """Half of the training images mirrored in the first epoch, the others in the second, and so on.

    So every two epochs show both sides of every image (Jordan 2024, arXiv 2404.00498). Which half
    is the first is the same in all trainings: it has to be known in every epoch, whatever generator
    that has.
    """
    coins = torch.Generator().manual_seed(0)
    first_half = torch.randint(2, (len(data.train),), generator=coins).bool()

    def change(images: Tensor, generator: torch.Generator, part: Part) -> Tensor:  # noqa: ARG001
        if part.indices is None:
            raise ValueError("alternating-flip needs the indices of the images")
        return mirror(images, first_half[part.indices.cpu()] ^ (part.epoch % 2 == 0))

    return change
