"""Whether the last process that worked in a folder was ended by its own machine code."""

from __future__ import annotations

import contextlib
import faulthandler
import sys
from collections.abc import Iterator
from pathlib import Path

_NAME = "crash.txt"


@contextlib.contextmanager
def crash_record(folder: Path) -> Iterator[None]:
    """While it is open, a fatal error of machine code (SIGSEGV, SIGABRT, ...) writes the Python
    stack to a file in ``folder``, for :func:`crashed`.

    At any other end, Ctrl-C and exceptions included, the file is removed. A process that is killed
    (SIGKILL) leaves it empty. ``faulthandler`` is afterwards as it was, but for its file: standard
    error.
    """
    path = folder / _NAME
    was_enabled = faulthandler.is_enabled()
    try:
        with path.open("w", encoding="utf-8") as file:
            faulthandler.enable(file)
            try:
                yield
            finally:
                faulthandler.disable()
                if was_enabled and sys.__stderr__ is not None:
                    faulthandler.enable(sys.__stderr__)
    finally:
        path.unlink(missing_ok=True)


def crashed(folder: Path) -> bool:
    """Whether a process in ``folder`` died natively since the last one that ended otherwise."""
    path = folder / _NAME
    return path.is_file() and path.stat().st_size > 0
