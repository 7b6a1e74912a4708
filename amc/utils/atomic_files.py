"""Files that are replaced in one step, so that what is on disk is sound at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A draft beside ``path``, of the same suffix, that takes its place where all goes well.

    Otherwise the draft is removed, and what was there before stays.
    """
    draft = path.with_name(f"{path.stem}.tmp{path.suffix}")
    try:
        yield draft
        with draft.open("rb") as file:  # on the disk before it takes the place of what is there
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
