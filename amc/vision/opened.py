"""A data set whose classes and channels are known before its images are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from amc.config import DataConfig
from amc.vision import data as today
from amc.vision.data import ImageData, load_data


@dataclass(frozen=True)
class StoredImages:
    """Some images as they are stored."""

    labels: Tensor
    read: Callable[[int], Image.Image | Tensor]


@dataclass(frozen=True)
class Source:
    """A data set of which no image has been read yet."""

    name: str
    classes: tuple[str, ...]
    channels: int
    defaults: dict[str, Any]
    train: StoredImages

    def read(self, config: DataConfig, *, progress: bool = True) -> ImageData:
        """The images in their splits."""
        return load_data(config, progress=progress)


def open_source(config: DataConfig) -> Source:
    """What ``config.spec`` names; raises what :func:`load_data` raises."""
    kind, _, folder = config.spec.partition(":")
    if kind == "imagefolder" and (Path(folder).expanduser() / "train").is_dir():
        root = Path(folder).expanduser()
        classes, paths, labels = today._list_folder(root / "train")
        imagenet = {"mean": today.IMAGENET_MEAN, "std": today.IMAGENET_STD}

        def read(index: int) -> Image.Image:
            with Image.open(paths[index]) as image:
                return image.convert("RGB")

        train = StoredImages(labels, read)
        return Source(root.resolve().name, classes, 3, imagenet, train)
    images = load_data(config.model_copy(update={"mean": None, "std": None, "image_size": None}))
    defaults = {"mean": images.mean, "std": images.std}
    channels = images.example().shape[1]
    stored = StoredImages(
        images.train.labels, lambda index: images.train.take(torch.tensor([index])).images[0]
    )
    return Source(images.name, images.classes, channels, defaults, stored)
