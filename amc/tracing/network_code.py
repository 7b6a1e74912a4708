"""Which files hold a network's code, so that a reason names the line that its reader wrote."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

_OURS = Path(__file__).parent.parent
_PYTORCHS = Path(torch.__file__).parent


@cache
def network_file(path: str) -> str | None:
    """Its name where it holds a network's code; None otherwise."""
    file = Path(path)
    return file.name if is_network_code(file) else None


def is_network_code(file: Path) -> bool:
    """Whether ``file`` holds a network's code: a user's, another library's, or one of our own.

    Not PyTorch's, and not what of ours runs networks, or runs inside of sliced ones.
    """
    ours = _OURS in file.parents and _OURS / "models" not in file.parents
    return not ours and _PYTORCHS not in file.parents and file.suffix == ".py"
