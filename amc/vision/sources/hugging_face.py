"""``huggingface:DIR``: a data set that Hugging Face's ``datasets`` saved on disk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from amc.config import DataConfig
from amc.errors import DataError
from amc.vision.decoding import decode, is_grey
from amc.vision.skipped import UnreadableError
from amc.vision.sources.base import Source, defaults_of

_LOOKED_AT = 16
"""Images, spread over the training split, that all have to be grey for one channel."""


def open_hugging_face(where: str, _config: DataConfig) -> Source:
    """The splits ``train``, and ``test`` or ``validation``; where there are all three, plans are
    scored on ``validation``. Columns are found by their types. Nothing is downloaded or executed.

    Raises :class:`DataError` where ``datasets`` is not installed, and where a split or a column is
    missing.
    """
    folder = Path(where).expanduser()
    splits = _load(folder)
    held_out = [name for name in ("test", "validation") if name in splits]
    if "train" not in splits or not held_out:
        raise DataError(
            f"huggingface:{folder}: has the splits {', '.join(splits) or 'none'}; it must have "
            "train, and test or validation"
        )
    classes = _classes(splits["train"], folder)
    rows = {name: _rows(splits[name], folder / name, classes) for name in ("train", *held_out)}
    notes = []
    if len(held_out) == 2:
        if bool((rows["test"].labels < 0).any()):
            notes.append("the labels of test are hidden, and validation takes its place")
            held_out.remove("test")
        else:
            notes.append("plans are scored on validation (--search-val 0.1: on a tenth of train)")
    for name in ("train", *held_out):
        labels = rows[name].labels
        if not len(labels) or int(labels.min()) < 0 or int(labels.max()) >= len(classes):
            raise DataError(
                f"{folder / name}: must have rows, with labels from 0 to {len(classes) - 1}"
            )
    channels = 1 if rows["train"].are_grey() else 3
    parts = {name: replace(part, channels=channels) for name, part in rows.items()}
    return Source(
        name=folder.resolve().name,
        classes=classes,
        channels=channels,
        train=parts["train"],
        test=parts[held_out[0]],
        search_val=parts["validation"] if len(held_out) == 2 else None,
        defaults=defaults_of(channels),
        flip=channels == 3,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Rows:
    """A split, whose images are read as the bytes that are stored."""

    split: Any
    column: str
    labels: Tensor
    where: str
    channels: int = 3

    def name(self, index: int) -> str:
        """Its place."""
        return f"{self.where}[{index}]"

    def paths(self) -> Iterator[str]:
        """None."""
        return iter(())

    def read(self, index: int) -> Image.Image:
        """One image, decoded."""
        return decode(self._stored(index), self.name(index), self.channels)

    def are_grey(self) -> bool:
        """Whether the first of some images, and all others of them, have one channel."""
        for place in torch.linspace(0, len(self.labels) - 1, _LOOKED_AT).long().tolist():
            try:
                file = self._stored(place)
                with Image.open(BytesIO(file) if isinstance(file, bytes) else file) as image:
                    if not is_grey(image):
                        return False
            except (DataError, OSError):
                continue
        return True

    def _stored(self, index: int) -> bytes | Path:
        cell = self.split[index][self.column] or {}
        if cell.get("bytes") is not None:
            return bytes(cell["bytes"])
        if cell.get("path") is None:
            raise UnreadableError(f"{self.name(index)}: holds no image")
        return Path(cell["path"])


def _load(folder: Path) -> dict[str, Any]:
    """The splits by name."""
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"data 'huggingface:{folder}' needs the datasets package: pip install "
            "amc-agent[huggingface]"
        ) from None
    if not folder.is_dir():
        raise DataError(f"huggingface:{folder}: no such folder; save one with save_to_disk")
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever a damaged file leads it to
        reason = str(error).partition("\n")[0]
        raise DataError(
            f"huggingface:{folder}: cannot be read: {reason}; it must be what "
            "datasets.DatasetDict.save_to_disk wrote"
        ) from None
    return dict(found) if isinstance(found, datasets.DatasetDict) else {}


def _classes(split: Any, folder: Path) -> tuple[str, ...]:
    """Of the label column: its own names, or its values in order."""
    column = _label_column(split, folder)
    names = getattr(split.features[column], "names", None)
    if names:
        return tuple(names)
    return tuple(str(value) for value in np.unique(_values(split, column)))


def _rows(split: Any, where: Path, classes: tuple[str, ...]) -> _Rows:
    import datasets

    images = [n for n, kind in split.features.items() if isinstance(kind, datasets.Image)]
    if len(images) != 1:
        raise DataError(
            f"{where}: has {len(images)} columns of images ({', '.join(images) or 'none'}); it "
            "must have one (datasets.Image)"
        )
    column = _label_column(split, where)
    values = _values(split, column)
    if not getattr(split.features[column], "names", None):
        number_of = {name: number for number, name in enumerate(classes)}
        values = np.array([number_of.get(str(value), -1) for value in values])
    raw = split.select_columns(images).with_format(None)
    return _Rows(
        raw.cast_column(images[0], datasets.Image(decode=False)),
        images[0],
        torch.from_numpy(values.astype(np.int64)),
        str(where),
    )


def _label_column(split: Any, where: Path) -> str:
    """The only one of type ClassLabel, or the one of whole numbers or words named label."""
    import datasets

    kinds = split.features
    labels = [n for n, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    named = [n for n in ("label", "labels") if isinstance(kinds.get(n), datasets.Value)]
    found = labels if len(labels) == 1 else [n for n in labels if n == "label"] or named
    if len(found) != 1:
        raise DataError(
            f"{where}: of its columns ({', '.join(kinds)}) one must be a datasets.ClassLabel, or "
            "be named label"
        )
    return str(found[0])


def _values(split: Any, column: str) -> Any:
    return np.asarray(split.select_columns([column]).with_format(None)[:][column])
