"""Whether images are kept in memory, or read from disk whenever they are needed."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from amc.config.inputs import Cache
from amc.utils.formatting import duration

SHARE = 0.25
"""Of the free memory that images may take: networks and their gradients need the rest."""
PATIENCE_S = 20.0
"""Longest time for which a search may wait until all images are in memory."""
_GB = 1e9


@dataclass(frozen=True)
class Choice:
    """Where the images are."""

    in_memory: bool
    reason: str
    """In words."""


def choose(cache: Cache, size_bytes: int, read_seconds: float) -> Choice:
    """Memory or disk, for decoded images of ``size_bytes`` that take ``read_seconds`` to read."""
    free_bytes = available_bytes()
    size = f"{size_bytes / _GB:.1f} GB"
    if cache == "memory":
        return Choice(True, ", --cache memory")
    if cache == "disk":
        return Choice(False, "whenever they are needed (--cache disk)")
    if size_bytes > SHARE * free_bytes:
        return Choice(
            False,
            f"whenever they are needed: decoded they take {size}, more than a quarter of the "
            f"{free_bytes / _GB:.1f} GB of free memory (--cache memory keeps them all the same)",
        )
    if read_seconds > PATIENCE_S:
        return Choice(
            False,
            "whenever they are needed: to read all of them first would take about "
            f"{duration(read_seconds)} (--cache memory does: {size})",
        )
    return Choice(True, "")


def available_bytes() -> int:
    """Memory that is free for use: that of the machine, or of the container, if that has less."""
    return min(_of_machine(), _of_container())


def _of_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration):
        pass
    try:
        page_bytes = os.sysconf("SC_PAGE_SIZE")
        if "SC_AVPHYS_PAGES" in os.sysconf_names:
            return page_bytes * os.sysconf("SC_AVPHYS_PAGES")
        return page_bytes * os.sysconf("SC_PHYS_PAGES") // 2  # macOS does not say what is free
    except (OSError, ValueError, AttributeError):
        return int(4 * _GB)


def _of_container(root: Path = Path("/sys/fs/cgroup")) -> int:
    """What control group (version 2) is left; a great number where there is no limit."""
    try:
        limit = int((root / "memory.max").read_text())
        used = int((root / "memory.current").read_text())
        statistics = (root / "memory.stat").read_text().splitlines()
        # Pages of files that nothing holds are given back when memory is asked for.
        freeable = next(int(line.split()[1]) for line in statistics if "inactive_file" in line)
    except (OSError, ValueError, StopIteration):
        return 2**62
    return max(limit - used + freeable, 0)
