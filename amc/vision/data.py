"""Images in three splits: train, search-val (the reward), test (reports only)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from amc.vision.crop_and_flip import random_crop, random_mirror
from amc.vision.skipped import Skipped

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) in uint8 and their labels (N,) in int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Split:
        """The images at ``indices`` (M,), in that order."""
        return Split(self.images[indices.to(self.images.device)], self.labels[indices])

    def batches(self, order: Iterable[Tensor]) -> Iterator[Split]:
        """The images at each of the indices in ``order``."""
        return (self.take(indices) for indices in order)


class Images(Protocol):
    """A split, in memory (:class:`Split`) or on disk."""

    @property
    def labels(self) -> Tensor:
        """(N,) in int64, always in memory."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> Split:
        """The images at ``indices``, read into memory, in that order."""

    def batches(self, order: Iterable[Tensor]) -> Iterator[Split]:
        """The images at each of the indices in ``order``, read ahead where that helps. An image
        that cannot be read is left out, so that a batch may be smaller, or empty."""


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some images of a split, read only when they are asked for."""

    of: Images
    indices: Tensor
    """(N,) into ``of``."""

    @property
    def labels(self) -> Tensor:
        """(N,) in int64."""
        return self.of.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Tensor) -> Split:
        """See :class:`Images`."""
        return self.of.take(self.indices[indices])

    def batches(self, order: Iterable[Tensor]) -> Iterator[Split]:
        """See :class:`Images`."""
        return self.of.batches([self.indices[indices] for indices in order])


@dataclass(frozen=True)
class ImageData:
    """A data set: three disjoint splits, and how images are normalised and augmented."""

    name: str
    classes: tuple[str, ...]
    train: Images
    search_val: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int
    """Pixels of zero padding on each side before the random crop; 0: no crop."""
    flip: bool
    """Whether a mirrored image is still of its class."""
    notes: tuple[str, ...] = ()
    """How many images are used, where they are and why, and what the user should know of them."""
    skipped: Skipped = field(default_factory=lambda: Skipped(0))
    """Images that could not be read, so far: those on disk may be met in the middle of an epoch,
    after which :meth:`Skipped.news` says so."""

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to float32 of mean 0 and deviation 1, on the images' device."""
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        return images.float().mul_(1 / (255 * std)).sub_(mean / std)

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Random crop after zero padding, then a random mirror: uint8 to uint8, the same shape.

        Every image draws its own offsets, from ``generator`` alone.
        """
        if self.crop_padding:
            images = random_crop(images, self.crop_padding, generator, total=len(images))
        if self.flip:
            images = random_mirror(images, generator, total=len(images))
        return images

    def example(self, batch: int = 1) -> Tensor:
        """The first ``batch`` training images, normalised: an input for tracing and counting."""
        return self.normalise(self.train.take(torch.arange(batch)).images)


def stratified_indices(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` indices, ascending, with every class in proportion (to within one image).

    Each class is shuffled, its images spread evenly over (0, 1), and the ``count`` first positions
    of all are taken.
    """
    order = torch.randperm(len(labels), generator=generator)
    members = order[labels[order].argsort(stable=True)]  # class by class, each one shuffled
    sizes = labels.unique(return_counts=True)[1]
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    ranks = torch.arange(len(labels), dtype=torch.float64) - starts
    position = torch.empty(len(labels), dtype=torch.float64)
    position[members] = (ranks + 0.5) / sizes.repeat_interleave(sizes)
    # Stable over the shuffled order, so that ties between classes do not favour low labels.
    first = order[position[order].argsort(stable=True)[:count]]
    return first.sort().values
