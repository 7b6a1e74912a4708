"""``cifar10:DIR``: CIFAR-10 in its binary form."""

from __future__ import annotations

from pathlib import Path

import torch

from amc.config import DataConfig
from amc.errors import DataError
from amc.vision.sources.base import Source
from amc.vision.stored import Arrays

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def open_cifar10(where: str, config: DataConfig) -> Source:
    """Read through torchvision; raises :class:`DataError` where the folder does not hold it."""
    from torchvision.datasets import CIFAR10

    folder = Path(where).expanduser()
    try:
        parts = [CIFAR10(str(folder), train, download=config.download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"cifar10:{folder}: {error}. Set download = true where there is a network, or unpack "
            f"cifar-10-python.tar.gz into {folder}"
        ) from None
    train, test = (
        Arrays(
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(part.targets, dtype=torch.int64),
        )
        for part in parts
    )
    return Source(
        name="cifar10",
        classes=tuple(parts[0].classes),
        channels=3,
        train=train,
        test=test,
        defaults={"mean": MEAN, "std": STD},
        crop_padding=4,
    )
