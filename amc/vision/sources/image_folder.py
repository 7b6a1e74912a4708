"""``imagefolder:DIR``: image files in ``DIR/train/CLASS`` and ``DIR/test/CLASS``."""

from __future__ import annotations

from pathlib import Path

from amc.config import DataConfig
from amc.errors import DataError
from amc.vision.image_files import class_names, list_files
from amc.vision.sources.base import Source, defaults_of


def open_image_folder(where: str, config: DataConfig) -> Source:
    """List the files; the test split is ``test``, or ``val`` where there is none.

    Raises :class:`DataError` where a folder is missing, or what :func:`list_files` raises.
    """
    folder = Path(where).expanduser()
    train = folder / "train"
    held_out = [folder / name for name in ("test", "val") if (folder / name).is_dir()]
    if not train.is_dir() or not held_out:
        raise DataError(f"imagefolder:{folder}: must hold the folders train and test (or val)")
    classes = class_names(train)
    unused = held_out[1:] if config.search_val is None else []
    return Source(
        name=folder.resolve().name,
        classes=classes,
        channels=3,
        train=list_files(train, classes),
        test=list_files(held_out[0], classes),
        defaults=defaults_of(3),
        notes=tuple(f"{one} is not used; --search-val {one} scores plans on it" for one in unused),
    )
