"""Where images come from: a file for each source.

A source is opened, which lists what there is without reading images, and then read, with a
preparation that may depend on what the data set says of itself, and on the network::

    source = open_source(DataConfig(spec="imagefolder:DIR"))
    data = source.read(source.completed(config))

To add one, write a function of what stands behind the colon of ``--data`` and of the settings that
returns a :class:`~amc.vision.sources.base.Source`, in a file of this package, and an entry into
:data:`SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from amc.config import DataConfig
from amc.errors import DataError
from amc.presets import in_file
from amc.vision.data import ImageData
from amc.vision.sources.base import Source as Source
from amc.vision.sources.cifar10 import open_cifar10
from amc.vision.sources.digits import open_digits
from amc.vision.sources.hugging_face import open_hugging_face
from amc.vision.sources.image_folder import open_image_folder
from amc.vision.sources.own import open_own


class _Entry(NamedTuple):
    open: Callable[[str, DataConfig], Source]
    form: str


SOURCES = {
    "digits": _Entry(open_digits, "digits"),
    "imagefolder": _Entry(open_image_folder, "imagefolder:DIR"),
    "cifar10": _Entry(open_cifar10, "cifar10:DIR"),
    "huggingface": _Entry(open_hugging_face, "huggingface:DIR"),
}
"""Sources by what stands before the colon of ``--data``."""


def open_source(config: DataConfig) -> Source:
    """List the images of ``config.spec`` without reading them.

    A Python file that it names is run. Raises :class:`DataError` where there is nothing of that
    name, and where classes or images are missing.
    """
    kind, _, where = config.spec.partition(":")
    entry = SOURCES.get(kind)
    if entry is not None and bool(where) == (entry.form != kind):
        return entry.open(where, config)
    if in_file(config.spec):
        return open_own(config.spec, config)
    forms = ", ".join(entry.form for entry in SOURCES.values())
    raise DataError(f"data {config.spec!r}: must be {forms} or path/to/file.py:function")


def load_data(config: DataConfig, *, progress: bool = True) -> ImageData:
    """Open and read the images of ``config``, prepared as the data set says where ``config`` does
    not. Raises what :func:`open_source` and :meth:`Source.read` raise."""
    source = open_source(config)
    return source.read(source.completed(config), progress=progress)
