"""A split whose images are read whenever they are needed, by several processes."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from amc.errors import DataError
from amc.vision.data import Split
from amc.vision.geometry import Geometry
from amc.vision.skipped import Skipped, UnreadableError
from amc.vision.stored import Stored

_MOST_WORKERS = 16
_CHUNK = 64
"""Images that a process reads at once where nobody asks for batches."""
_FEW = 4 * _CHUNK
"""Up to so many images are read in this process: starting others takes longer."""


def default_workers() -> int:
    """Processes that read images: one for each core but one, which computes."""
    usable = getattr(os, "sched_getaffinity", None)
    cores = len(usable(0)) if usable else os.cpu_count() or 1
    return min(max(cores - 1, 1), _MOST_WORKERS)


class Loaded(NamedTuple):
    """What came of reading some images."""

    images: Tensor
    """(M, C, H, W) in uint8, of those that could be read."""
    kept: Tensor
    """(M,), their places among those that were asked for."""
    unreadable: list[tuple[str, str]]
    """Names, and reasons, of the others."""
    error: str | None
    """Why no image can be read; None where that is not so."""


@dataclass(frozen=True)
class Reader(Dataset[Loaded]):
    """Reads images by their indices; it is what the processes have."""

    stored: Stored
    geometry: Geometry
    shape: torch.Size | None = None
    """(C, H, W) that all images must have; None: that of the first."""

    def __getitem__(self, indices: Tensor) -> Loaded:
        shape, images, kept, unreadable = self.shape, [], [], []
        for place, index in enumerate(indices.tolist()):
            try:
                image = self.geometry(self.stored.read(index))
            except UnreadableError as error:
                name = self.stored.name(index)
                unreadable.append((name, str(error).removeprefix(f"{name}: ")))
                continue
            except DataError as error:  # an exception would arrive with a traceback in its text
                return Loaded(torch.empty(0), torch.empty(0), [], str(error))
            shape = shape or image.shape
            if image.shape != shape:
                error_text = _differing(self.stored.name(index), image.shape, shape)
                return Loaded(torch.empty(0), torch.empty(0), [], error_text)
            images.append(image)
            kept.append(place)
        stack = torch.stack(images) if images else torch.empty(0, *(shape or (0, 0, 0))).byte()
        return Loaded(stack, torch.tensor(kept, dtype=torch.int64), unreadable, None)


@dataclass(frozen=True)
class StreamedSplit:
    """Images on disk, in the order of ``indices``. Reading draws nothing at random, so that the
    number of processes changes no batch."""

    reader: Reader
    """With the shape of the images."""
    indices: Tensor
    """(N,), of the images that belong to the split."""
    workers: int
    """Processes that read; 0: this one does."""
    skipped: Skipped

    @property
    def labels(self) -> Tensor:
        """(N,) in int64."""
        return self.reader.stored.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def without(self, names: Iterable[str]) -> Self:
        """The split without the images of these names, which are few."""
        unwanted, name = set(names), self.reader.stored.name
        if not unwanted:
            return self
        keep = torch.tensor([name(index) not in unwanted for index in self.indices.tolist()])
        return replace(self, indices=self.indices[keep])

    def take(self, indices: Tensor) -> Split:
        """The images at ``indices``, read into memory, in that order, but for unreadable ones."""
        few = len(indices) <= _FEW
        parts = list(self._read(list(indices.split(_CHUNK)), 0 if few else self.workers))
        if not parts:
            parts = [Split(torch.empty(0, *(self.reader.shape or ())).byte(), self.labels[:0])]
        return Split(
            torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
        )

    def batches(self, order: Iterable[Tensor]) -> Iterator[Split]:
        """The images at each of the indices in ``order``, read ahead; unreadable ones are left out,
        so that a batch may be empty."""
        return self._read(list(order), self.workers)  # a list: drawn before anything is read

    def load(self, on_images: Callable[[int], None] = lambda _: None) -> Split:
        """All images in memory, but for unreadable ones. ``on_images`` is told how many are read,
        whenever some are."""
        images = torch.empty(len(self), *(self.reader.shape or ()), dtype=torch.uint8)
        order, kept, filled = list(torch.arange(len(self)).split(_CHUNK)), [], 0
        for indices, loaded in self._load(order, self.workers):
            images[filled : filled + len(loaded.kept)] = loaded.images
            kept.append(indices[loaded.kept])
            filled += len(loaded.kept)
            on_images(len(indices))
        return Split(images[:filled], self.labels[torch.cat(kept)])

    def _read(self, order: list[Tensor], workers: int) -> Iterator[Split]:
        labels = self.labels
        for indices, loaded in self._load(order, workers):
            yield Split(loaded.images, labels[indices[loaded.kept]])

    def _load(self, order: list[Tensor], workers: int) -> Iterator[tuple[Tensor, Loaded]]:
        """Each of ``order`` and what came of it.

        Raises :class:`DataError` for too many unreadable images, and where a process dies.
        """
        stored = [self.indices[indices] for indices in order]
        with warnings.catch_warnings():  # more processes than cores are fine where files are slow
            warnings.filterwarnings("ignore", "This DataLoader will create")
            loader = DataLoader(
                self.reader,
                batch_size=None,  # an item is a batch
                sampler=stored,
                num_workers=min(workers, len(order)),
                # Otherwise PyTorch's global generator is drawn from.
                generator=torch.Generator().manual_seed(0),
            )
            reading = _iterator(loader)
        for indices in order:
            try:
                loaded = next(reading)
            except (RuntimeError, EOFError, OSError) as error:
                reason = str(error).partition("\n")[0].rstrip(". ") or type(error).__name__
                if not workers or reason.startswith("Caught"):  # of the reader itself
                    raise
                # EOFError, for example, where the dead process held an image on its way.
                raise DataError(
                    f"a process that reads images died ({reason}); where memory is short (also "
                    "/dev/shm), use fewer (--data-workers), or none (--data-workers 0)"
                ) from None
            if loaded.error is not None:
                raise DataError(loaded.error)
            for name, why in loaded.unreadable:
                self.skipped.add(name, why)
            yield indices, loaded


def _iterator(loader: DataLoader[Loaded]) -> Iterator[Loaded]:
    """Start the processes, and have their deaths found where their images are asked for.

    PyTorch also raises from a handler of SIGCHLD, wherever the program is at that moment.
    """
    before = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    reading = iter(loader)
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)
    return reading


def _differing(name: str, shape: torch.Size, expected: torch.Size) -> str:
    if shape[0] != expected[0]:
        return f"{name}: {shape[0]} channels, but the first image has {expected[0]}"
    return (
        f"{name}: {shape[2]}x{shape[1]} pixels, but the first image has "
        f"{expected[2]}x{expected[1]}; set image_size (--image-size) to resize all images"
    )
