"""Changes of one image at a time, by torchvision.

One colour image takes a server's core, in milliseconds at 32 and at 224 pixels: ``scale`` and
``rotation`` 0.5 and 3, ``randaugment`` 0.8 and 3, ``colour`` 1.3 and 10.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from amc.errors import ConfigError
from amc.training.augmentation.base import Part
from amc.vision.data import ImageData


def randaugment(data: ImageData) -> Any:
    """Two operations of RandAugment at magnitude 9 of 30 (Cubuk et al. 2020, arXiv 1909.13719)."""
    _check_channels(data, "randaugment")
    return v2.RandAugment(num_ops=2, magnitude=9)


def scale(data: ImageData) -> Any:  # noqa: ARG001 (as all others)
    """Zoomed about the centre by 0.8 to 1.2; what lies outside is black."""
    return v2.RandomAffine(0, scale=(0.8, 1.2), interpolation=v2.InterpolationMode.BILINEAR)


def rotation(data: ImageData) -> Any:  # noqa: ARG001 (as all others)
    """Turned about the centre by up to 15 degrees either way; what lies outside is black."""
    return v2.RandomRotation(15, interpolation=v2.InterpolationMode.BILINEAR)


def colour(data: ImageData) -> Any:
    """Brightness, contrast and saturation times 0.6 to 1.4, hue turned by up to a tenth.

    The strengths are MoCo v2's (Chen et al. 2020, arXiv 2003.04297). Grey images have no
    saturation and no hue.
    """
    _check_channels(data, "colour")
    return v2.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)


def _check_channels(data: ImageData, name: str) -> None:
    channels = len(data.mean)
    if channels not in (1, 3):
        raise ConfigError(
            f"augmentation {name!r} is for images of 1 or 3 channels, these have {channels}; take "
            "crop, flip, scale or rotation"
        )


class EachImage:
    """A :class:`~amc.training.augmentation.base.BatchChange` that changes one image at a time.

    Args:
        name: of the change, for messages.
        transform: of one uint8 image (C, H, W); it may draw from PyTorch's global generator.
    """

    def __init__(self, name: str, transform: Any) -> None:
        self.name = name
        self.transform = transform

    def __call__(self, images: Tensor, generator: torch.Generator, part: Part) -> Tensor:
        """Changed ``images``.

        Raises :class:`ConfigError` where one comes back in another shape or type.
        """
        seeds = torch.randint(2**62, (part.total,), generator=generator).tolist()
        # Not torch.manual_seed, which takes half a millisecond where CUDA is installed.
        devices, generators = [], [torch.default_generator]
        if images.device.type == "cuda":
            devices.append(images.device)
            generators.append(torch.cuda.default_generators[images.get_device()])
        changed = []
        with torch.random.fork_rng(devices):
            for image, seed in zip(images, seeds[part.first :], strict=False):
                for seeded in generators:
                    seeded.manual_seed(seed)
                changed.append(self._checked(self.transform(image), image))
        return torch.stack(changed) if changed else images

    def _checked(self, result: Any, image: Tensor) -> Tensor:
        if isinstance(result, Tensor):
            if result.dtype == torch.uint8 and result.shape == image.shape:
                return result
            what = f"{result.dtype} {tuple(result.shape)}"
        else:
            what = type(result).__name__
        raise ConfigError(
            f"augmentation {self.name!r} made {what} of an image; it must stay torch.uint8 "
            f"{tuple(image.shape)}"
        )
