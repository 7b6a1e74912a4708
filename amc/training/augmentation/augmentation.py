"""The changes of a recipe, one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from amc.registry import AUGMENTATIONS
from amc.training.augmentation.base import BatchChange, Part
from amc.vision.data import ImageData


class Augmentation:
    """The changes of a recipe, one after the other.

    Args:
        data: says what is done where the recipe does not, and what images there are.
        names: of :data:`amc.registry.AUGMENTATIONS`; None: those of the data set, drawn as
            :meth:`ImageData.augment` draws them.

    Raises :class:`ConfigError` where a change is not for such images.
    """

    def __init__(self, data: ImageData, names: tuple[str, ...] | None) -> None:
        if names is None:
            names = ("crop",) * (data.crop_padding > 0) + ("flip",) * data.flip
        self._changes = [_change(name, data) for name in names]

    def __call__(
        self,
        images: Tensor,
        generator: torch.Generator,
        *,
        epoch: int,
        total: int,
        first: int = 0,
        indices: Tensor | None = None,
    ) -> Tensor:
        """Changed ``images`` (n, C, H, W), uint8, on their device.

        Args:
            images: those from ``first`` on of a batch of ``total``.
            generator: draws for all ``total`` images.
            epoch: from 1.
            total: images of the batch, over all processes that share it.
            first: where this process's images begin.
            indices: (n,), which of ``data.train`` they are.
        """
        part = Part(total, first, epoch, indices)
        for change in self._changes:
            images = change(images, generator, part)
        return images


def _change(name: str, data: ImageData) -> BatchChange:
    entry = AUGMENTATIONS.entry(name)
    made = entry.load()(data)
    if entry.traits["whole_batch"]:
        return made  # type: ignore[no-any-return]
    from amc.training.augmentation.each_image import EachImage  # torchvision takes a second

    return EachImage(name, made)
