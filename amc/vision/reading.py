"""The images of all splits: read into memory, or made ready to be read from disk."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from amc.config import DataConfig
from amc.errors import DataError
from amc.vision.caching import Choice, choose
from amc.vision.data import Images, Split
from amc.vision.geometry import Geometry
from amc.vision.skipped import Skipped
from amc.vision.stored import Arrays, Stored
from amc.vision.streaming import Reader, StreamedSplit, default_workers

_PROBED = 48
"""Images, spread over all splits, that tell how large images are and how long they take."""
_ALONE_S = 4.0
"""Up to so long this process reads all images alone: starting others takes longer."""


class Part(NamedTuple):
    """Some of the stored images: those of a split."""

    stored: Stored
    indices: Tensor
    """(N,), ascending."""


class Reading(NamedTuple):
    """What came of :func:`read_parts`."""

    splits: list[Images]
    shape: torch.Size
    """(C, H, W) of every image."""
    where: str
    """Where the images are, and why, in words."""


def read_parts(
    parts: Sequence[Part],
    config: DataConfig,
    skipped: Skipped,
    *,
    may_fork: bool = True,
    progress: bool = True,
) -> Reading:
    """Read the images of ``parts``, or make them ready to be read.

    A few are read first, to see how large images are and how long they take; those that are
    unreadable are left out from the beginning. ``may_fork`` is false where no other process may
    read. Raises :class:`DataError` for images of different sizes, and too many unreadable ones.
    """
    geometry = Geometry.of(config)
    workers = default_workers() if config.data_workers is None else config.data_workers
    workers = workers if may_fork else 0
    shape, seconds_each = _probe(parts, geometry, skipped)
    stored_count = sum(len(part.indices) for part in parts if not _is_read(part, geometry))
    seconds = stored_count * seconds_each
    loaders = workers if seconds > _ALONE_S else 0
    if stored_count:
        size_bytes = sum(len(part.indices) for part in parts) * shape.numel()
        choice = choose(config.cache, size_bytes, seconds / max(loaders, 1))
    else:
        choice = Choice(True, "")
    streams = [
        StreamedSplit(
            Reader(part.stored, geometry, shape),
            part.indices,
            loaders if choice.in_memory else workers,
            skipped,
        ).without(skipped.names)
        for part in parts
    ]
    if not choice.in_memory:
        by = f" by {workers} process{'es' * (workers > 1)}" if workers else ""
        return Reading(list(streams), shape, f"read from disk{by} {choice.reason}")
    with Progress(console=Console(stderr=True), transient=True, disable=not progress) as bar:
        task = bar.add_task("reading images", total=stored_count)
        splits: list[Images] = [
            _whole(part, part.stored)
            if isinstance(part.stored, Arrays) and _is_read(part, geometry)
            else stream.load(lambda count: bar.advance(task, count))
            for part, stream in zip(parts, streams, strict=True)
        ]
    size = sum(len(split) for split in splits) * shape.numel() / 1e9
    return Reading(splits, shape, f"in memory ({size:.1f} GB{choice.reason})")


def _is_read(part: Part, geometry: Geometry) -> bool:
    """Whether the images are in memory anyway, as they are wanted."""
    return isinstance(part.stored, Arrays) and geometry.keeps(part.stored.images.shape[2:])


def _whole(part: Part, stored: Arrays) -> Split:
    return Split(stored.images[part.indices], stored.labels[part.indices])


def _probe(parts: Sequence[Part], geometry: Geometry, skipped: Skipped) -> tuple[torch.Size, float]:
    """Shape of the images, and the median seconds that one takes to read."""
    total = sum(len(part.indices) for part in parts)
    shape, seconds = None, []
    for part in parts:
        reader = Reader(part.stored, geometry, shape)
        probed = max(1, round(_PROBED * len(part.indices) / total))
        places = torch.linspace(0, len(part.indices) - 1, min(probed, len(part.indices)))
        for index in part.indices[places.long()].split(1):
            start = time.perf_counter()
            loaded = reader[index]
            if loaded.error is not None:
                raise DataError(loaded.error)
            for name, why in loaded.unreadable:
                skipped.add(name, why)
            if shape is None and len(loaded.kept):
                shape = loaded.images.shape[1:]
                reader = replace(reader, shape=shape)
                continue  # the first image also pays for what is loaded on first use
            seconds.append(time.perf_counter() - start)
    if shape is None:
        raise DataError(f"none of {len(skipped)} images can be read: {skipped.news()[0]}")
    return shape, statistics.median(seconds) if seconds else 0.0
