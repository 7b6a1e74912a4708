"""Images where they are stored, read one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from PIL import Image
from torch import Tensor


class Stored(Protocol):
    """Images where they are stored. It is sent to the processes that read them."""

    @property
    def labels(self) -> Tensor:
        """(N,) in int64."""

    def name(self, index: int) -> str:
        """What an error message calls the image."""

    def paths(self) -> Iterator[str]:
        """The paths by which a file lists them; nothing where they have none."""

    def read(self, index: int) -> Image.Image | Tensor:
        """One image as it is stored: uint8 (C, H, W), or of Pillow in mode L or RGB.

        Raises :class:`~amc.vision.skipped.UnreadableError` where only this one cannot be read.
        """


@dataclass(frozen=True)
class Arrays:
    """Images that are in memory anyway."""

    images: Tensor
    """(N, C, H, W) in uint8."""
    labels: Tensor

    def name(self, index: int) -> str:
        """Its number."""
        return f"image {index}"

    def paths(self) -> Iterator[str]:
        """None."""
        return iter(())

    def read(self, index: int) -> Tensor:
        """One image."""
        return self.images[index]
