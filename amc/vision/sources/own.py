"""Images from a user's PyTorch data sets or loaders."""

from __future__ import annotations

import difflib
import multiprocessing
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from amc.config import DataConfig
from amc.errors import AMCError, DataError
from amc.models.factory import import_file
from amc.vision.data import ImageData
from amc.vision.sources.base import Source, defaults_of
from amc.vision.sources.items import items_of, seeded

PARTS = ("train", "test", "search_val")


def open_own(spec: str, config: DataConfig) -> Source:
    """Call ``path/to/file.py:function``, without arguments.

    It returns data sets or loaders as :func:`source_from` takes them: a dictionary of its
    arguments, or a tuple (train, test) or (train, test, search_val). What it draws at random is
    seeded. Raises :class:`DataError` where it fails, or returns anything else.
    """
    path_text, _, name = spec.rpartition(":")
    path = Path(path_text).expanduser()
    if not path.is_file():
        raise DataError(f"data {spec!r}: no such file; write path/to/file.py:function")
    try:
        module = import_file(path)
    except AMCError as error:
        raise DataError(str(error)) from error
    function = getattr(module, name, None)
    if not callable(function):
        own = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        near = difflib.get_close_matches(name, own, n=5, cutoff=0.4) or own[:5]
        raise DataError(f"{path} has no function {name!r}; it has: {', '.join(near) or 'none'}")
    try:
        with seeded(config.seed):
            made = function()
    except Exception as error:  # the user's own code: anything may come
        raise DataError(f"{spec}: raised {type(error).__name__}: {error}") from error
    if isinstance(made, tuple | list) and 2 <= len(made) <= len(PARTS):
        made = dict(zip(PARTS, made, strict=False))
    known = {*PARTS, "classes"}
    if not isinstance(made, Mapping) or not {"train", "test"} <= made.keys() <= known:
        found = sorted(made) if isinstance(made, Mapping) else type(made).__name__
        raise DataError(
            f"{spec}: returned {found}; it must return a dictionary of train, test and perhaps "
            "search_val and classes, or a tuple (train, test) or (train, test, search_val)"
        )
    source = source_from(**{"name": path.stem, **made})
    # Other processes find the file's classes only where they are copies of this one.
    method = multiprocessing.get_start_method(allow_none=True)
    forks = (method or multiprocessing.get_all_start_methods()[0]) == "fork"
    return replace(source, may_fork=forks)


def data_from(
    train: Any,
    test: Any,
    search_val: Any = None,
    *,
    classes: Sequence[str] | None = None,
    name: str = "own",
    config: DataConfig | None = None,
    progress: bool = True,
) -> ImageData:
    """Images of PyTorch data sets or loaders, for :func:`amc.image_task`.

    Args:
        train: a ``Dataset`` of (image, label), or a ``DataLoader`` of one, of which nothing but its
            data set is used. An image is one of Pillow, a uint8 tensor (C, H, W), or a tensor of
            floating point in [0, 1] of that shape; not normalised, and not augmented. A label is a
            whole number from 0.
        test: the same, for reports.
        search_val: the same, on which plans are scored; None: held out of ``train``.
        classes: names of the classes; None: those of the data set, or numbers.
        name: of the data set, for messages.
        config: everything else that can be set (``spec`` is not read).
        progress: whether a bar is shown.

    Raises:
        DataError: for items of another form, and what reading raises.
    """
    source = source_from(train, test, search_val, classes=classes, name=name)
    config = source.completed(config or DataConfig(spec=name))
    return source.read(config, progress=progress)


def source_from(
    train: Any,
    test: Any,
    search_val: Any = None,
    *,
    classes: Sequence[str] | None = None,
    name: str = "own",
) -> Source:
    """The data sets of :func:`data_from`, before any image is prepared."""
    given = {"train": train, "test": test, "search_val": search_val}
    parts = {k: items_of(v, f"{name} {k}") for k, v in given.items() if v is not None}
    channels = parts["train"].channels_of_first()
    parts = {key: replace(part, channels=channels) for key, part in parts.items()}
    least = 1 + max(int(part.labels.max()) for part in parts.values())
    own_names = getattr(parts["train"].dataset, "classes", None)
    names = classes if classes is not None else own_names
    if names is None or (classes is None and len(names) < least):
        names = [str(number) for number in range(least)]
    if len(names) < least:
        raise DataError(f"{name}: labels go up to {least - 1}, but there are {len(names)} classes")
    return Source(
        name=name,
        classes=tuple(str(one) for one in names),
        channels=channels,
        train=parts["train"],
        test=parts["test"],
        search_val=parts.get("search_val"),
        defaults=defaults_of(channels),
        flip=channels == 3,
    )
