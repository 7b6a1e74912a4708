"""What every source of images gives: what there is, and how it is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from amc.config import DataConfig
from amc.errors import DataError
from amc.vision.data import IMAGENET_MEAN, IMAGENET_STD, ImageData
from amc.vision.image_files import list_files
from amc.vision.reading import Part, read_parts
from amc.vision.skipped import Skipped
from amc.vision.splits import hold_out
from amc.vision.stored import Stored

_NAMED = 3
"""Classes that a note names."""


@dataclass(frozen=True)
class Source:
    """A data set of which no image has been read yet."""

    name: str
    classes: tuple[str, ...]
    channels: int
    train: Stored
    test: Stored
    search_val: Stored | None = None
    """Of its own; None: to be held out of ``train``."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """What it says of its preparation, by the names of :class:`DataConfig`."""
    crop_padding: int | None = None
    """See :class:`ImageData`; None: an eighth of the shorter side."""
    flip: bool = True
    notes: tuple[str, ...] = ()
    may_fork: bool = True
    """Whether other processes may read it."""

    @property
    def counts(self) -> dict[str, int]:
        """Stored images by split, before search-val is held out."""
        parts = {"train": self.train, "search_val": self.search_val, "test": self.test}
        return {name: len(part.labels) for name, part in parts.items() if part is not None}

    def completed(self, config: DataConfig) -> DataConfig:
        """``config`` with :attr:`defaults` where it says nothing."""
        open_keys = {k: v for k, v in self.defaults.items() if getattr(config, k) is None}
        return config.model_copy(update=open_keys)

    def read(self, config: DataConfig, *, progress: bool = True) -> ImageData:
        """The images in their splits, prepared as ``config`` says (see :meth:`completed`).

        Raises :class:`DataError` where too many images are unreadable, where they are of different
        sizes (and ``image_size`` is None), where a split would be empty, or for a mean and a
        deviation that do not suit the channels.
        """
        mean, std = config.mean or (), config.std or ()
        if not len(mean) == len(std) == self.channels or min(std) <= 0:
            raise DataError(
                f"mean {mean} and std {std}: the images have {self.channels} channels; give one "
                "mean and one positive std for each"
            )
        skipped = Skipped(config.max_corrupt)
        parts = self._parts(config)
        reading = read_parts(parts, config, skipped, may_fork=self.may_fork, progress=progress)
        for name, split in zip(("train", "search-val", "test"), reading.splits, strict=True):
            if not len(split):
                raise DataError(f"{self.name}: no {name} image can be read; {skipped.news()[0]}")
        train, search_val, test = reading.splits
        counts = f"{len(train):,} train, {len(search_val):,} search-val, {len(test):,} test images"
        eighth = min(reading.shape[1:]) // 8
        return ImageData(
            name=self.name,
            classes=self.classes,
            train=train,
            search_val=search_val,
            test=test,
            mean=mean,
            std=std,
            crop_padding=eighth if self.crop_padding is None else self.crop_padding,
            flip=self.flip,
            notes=(
                f"{counts}, {reading.where}",
                *self.notes,
                *self._missing(parts),
                *skipped.news(),
            ),
            skipped=skipped,
        )

    def _parts(self, config: DataConfig) -> tuple[Part, Part, Part]:
        """Train, search-val and test."""
        test, chosen = _all(self.test), config.search_val
        if isinstance(chosen, str) and Path(chosen).expanduser().is_dir():
            other = list_files(Path(chosen).expanduser(), self.classes, self.channels)
            return _all(self.train), _all(other), test
        if chosen is None and self.search_val is not None:
            return _all(self.train), _all(self.search_val), test
        rest, held_out = hold_out(self.train, chosen, config.seed)
        return Part(self.train, rest), Part(self.train, held_out), test

    def _missing(self, parts: Sequence[Part]) -> list[str]:
        """What the user should know of classes that a split lacks."""
        notes = []
        for split, part in zip(("train", "search-val", "test"), parts, strict=True):
            present = torch.bincount(part.stored.labels[part.indices], minlength=len(self.classes))
            names = [name for name, count in zip(self.classes, present, strict=True) if not count]
            if names:
                more = ", ..." if len(names) > _NAMED else ""
                classes = "1 class" if len(names) == 1 else f"{len(names)} classes"
                listed = ", ".join(names[:_NAMED])
                notes.append(f"{split} has no image of {classes}: {listed}{more}")
        return notes


def _all(stored: Stored) -> Part:
    return Part(stored, torch.arange(len(stored.labels)))


def defaults_of(channels: int) -> dict[str, Any]:
    """What images that say nothing of themselves are normalised with: ImageNet's statistics for
    three channels, as most networks for them are trained with, otherwise to [-1, 1]."""
    if channels == 3:
        return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    return {"mean": (0.5,) * channels, "std": (0.5,) * channels}
