"""From an image of any size to the one that the network sees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from PIL import Image
from torch import Tensor

from amc.config import DataConfig


@dataclass(frozen=True)
class Geometry:
    """Shorter side resized, centre cropped; the same for images in memory and from disk."""

    size: int | None = None
    """Side of the square that is cropped, in pixels; None: images stay as they are stored."""
    crop_pct: float = 1.0
    interpolation: str = "bilinear"

    @classmethod
    def of(cls, config: DataConfig) -> Self:
        """What ``config`` says; what it leaves open is 1 and bilinear."""
        return cls(config.image_size, config.crop_pct or 1.0, config.interpolation or "bilinear")

    @property
    def resized(self) -> int:
        """Shorter side before the crop: rounded down, as timm and torchvision have it."""
        return math.floor((self.size or 0) / self.crop_pct + 1e-6)

    def keeps(self, sides: torch.Size) -> bool:
        """Whether an image of these sides stays as it is."""
        square = torch.Size((self.size, self.size)) if self.size is not None else None
        return square is None or (sides == square and self.resized == self.size)

    def __call__(self, image: Image.Image | Tensor) -> Tensor:
        """``image``, of Pillow or uint8 (C, H, W), as uint8 (C, size, size).

        It is Pillow that resizes (with antialiasing), as when networks are trained; the channels of
        a tensor are resized one by one, which is the same.
        """
        if isinstance(image, Tensor):
            if self.keeps(image.shape[1:]):
                return image
            channels = [Image.fromarray(channel.numpy()) for channel in image]
            return torch.cat([self(channel) for channel in channels])
        # Not at the top: importing torchvision takes as long as the rest of a small search.
        from torchvision.transforms.v2 import InterpolationMode
        from torchvision.transforms.v2 import functional as transforms

        if self.size is not None:
            mode = InterpolationMode(self.interpolation)
            image = transforms.resize(image, [self.resized], interpolation=mode)
        return self._crop(transforms.pil_to_tensor(image))

    def _crop(self, image: Tensor) -> Tensor:
        if self.size is None:
            return image
        from torchvision.transforms.v2 import functional as transforms

        cropped: Tensor = transforms.center_crop(image, [self.size, self.size])
        return cropped
