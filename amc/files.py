"""Files that are replaced in one step, so that what is on disk is sound at any moment."""

from __future__ import annotations

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
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
