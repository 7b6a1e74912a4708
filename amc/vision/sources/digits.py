"""``digits``: scikit-learn's 1,797 handwritten digits, which are embedded."""

from __future__ import annotations

import numpy as np
import torch

from amc.config import DataConfig
from amc.errors import DataError
from amc.vision.sources.base import Source
from amc.vision.splits import draw
from amc.vision.stored import Arrays

MEAN, STD = (0.5,), (0.5,)
_TEST = 0.2


def open_digits(_where: str, config: DataConfig) -> Source:
    """8x8, in one channel; a seeded stratified fifth is the test split."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("data 'digits' needs scikit-learn: pip install amc-agent[demo]") from None
    digits = load_digits()
    # Values are 0 to 16.
    images = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target.astype(np.int64))
    train, test = draw(labels, _TEST, config.seed)
    return Source(
        name="digits",
        classes=tuple(str(name) for name in digits.target_names),
        channels=1,
        train=Arrays(images[train], labels[train]),
        test=Arrays(images[test], labels[test]),
        defaults={"mean": MEAN, "std": STD},
        crop_padding=1,
        flip=False,
    )
