"""The folder of what may be lost and is then made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``$AMC_CACHE``, or ``amc`` in the user's cache folder."""
    if "AMC_CACHE" in os.environ:
        return Path(os.environ["AMC_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amc"
