"""A folder of image files, one sub-folder for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from amc.errors import DataError
from amc.vision.decoding import decode

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Of torchvision's ``ImageFolder``."""


@dataclass(frozen=True)
class Files:
    """Image files below ``folder``.

    Their paths are one array of bytes: processes that are forked share it, which they would not do
    with as many objects, whose reference counts they write.
    """

    folder: Path
    text: NDArray[np.uint8]
    """The paths from ``folder`` on, one behind the other."""
    ends: NDArray[np.int64]
    """(N,), where each of them ends in ``text``."""
    labels: Tensor
    channels: int

    def name(self, index: int) -> str:
        """Its path."""
        return str(self.folder / self._path(index))

    def paths(self) -> Iterator[str]:
        """From the folder on that holds this one: ``train/CLASS/FILE``."""
        return (f"{self.folder.name}/{self._path(i)}" for i in range(len(self.ends)))

    def read(self, index: int) -> Image.Image:
        """One image, decoded."""
        path = self.folder / self._path(index)
        return decode(path, str(path), self.channels)

    def _path(self, index: int) -> str:
        begin = int(self.ends[index - 1]) if index else 0
        return os.fsdecode(self.text[begin : int(self.ends[index])].tobytes())


def class_names(folder: Path) -> tuple[str, ...]:
    """The sub-folders of ``folder`` in order, but for hidden ones.

    Raises :class:`DataError` where there is none, or ``folder`` cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(e.name for e in entries if e.name[0] != "." and e.is_dir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from None
    if not names:
        raise DataError(f"{folder}: is empty; it must hold a sub-folder of images for each class")
    return tuple(names)


def list_files(folder: Path, classes: Sequence[str], channels: int = 3) -> Files:
    """The images of each class, in the order of torchvision's ``ImageFolder``.

    Hidden files and folders are passed over. Reads no image, and asks the system for nothing but
    the folders' entries. Raises :class:`DataError` where a sub-folder is missing, has no image, or
    is of no class.
    """
    found = class_names(folder)
    if found != tuple(classes):
        differing = sorted(set(found) ^ set(classes))
        raise DataError(
            f"{folder}: its classes differ from those of train ({', '.join(differing[:3])}); "
            "both must have the same sub-folders"
        )
    text = bytearray()
    lengths: list[int] = []
    counts: list[int] = []
    for name in classes:
        before = len(lengths)
        for path in _images(str(folder), name):
            encoded = os.fsencode(path)
            text += encoded
            lengths.append(len(encoded))
        counts.append(len(lengths) - before)
        if not counts[-1]:
            raise DataError(
                f"{folder / name}: the class has no image ({', '.join(EXTENSIONS)}); add some, or "
                "remove the folder"
            )
    return Files(
        folder,
        np.frombuffer(bytes(text), np.uint8),
        np.cumsum(lengths, dtype=np.int64),
        torch.arange(len(classes)).repeat_interleave(torch.tensor(counts)),
        channels,
    )


def _images(root: str, name: str) -> Iterator[str]:
    """Paths from ``root`` on, of one class."""
    walked = []
    for where, folders, files in os.walk(os.path.join(root, name), followlinks=True):  # noqa: PTH118
        folders[:] = [one for one in folders if one[0] != "."]
        walked.append((where, files))
    for where, files in sorted(walked):
        inside = where[len(root) :].lstrip(os.sep)
        for file in sorted(files):
            if file[0] != "." and file.lower().endswith(EXTENSIONS):
                yield f"{inside}/{file}"
