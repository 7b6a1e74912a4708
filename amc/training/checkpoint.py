"""Checkpoints of a training: written in one step, two of them in turns, and checked when read."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from amc.utils.atomic_files import replacing

State = dict[str, Any]
"""Tensors, numbers, strings, and lists and dictionaries of them: what ``weights_only`` loads."""

_DIGEST = hashlib.sha256
_DIGEST_BYTES = 32
_SLOTS = ("checkpoint-a.pt", "checkpoint-b.pt")


class Checkpoints:
    """The two last states of a training in ``folder``; a torn file costs one of them.

    Args:
        folder: created when there is something to write; None: nothing is ever written.
        on_note: told of what could not be written or read; the training goes on.
    """

    def __init__(self, folder: Path | None, on_note: Callable[[str], None]) -> None:
        self._folder = folder
        self._note = on_note
        self._next = 0

    def save(self, state: State) -> None:
        """Write ``state`` over the older of the two. A full disk is noted, and nothing is lost."""
        if self._folder is None:
            return
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        path = self._folder / _SLOTS[self._next]
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with replacing(path) as draft, draft.open("wb") as file:
                file.write(_DIGEST(content).digest())
                file.write(content)
        except OSError as error:
            self._note(
                f"{path} could not be written ({error.strerror}); training goes on, and would be "
                "resumed from an earlier checkpoint"
            )
            return
        self._next = 1 - self._next

    def load(self) -> State | None:
        """The newest sound state; None where there is none. The next is written over the other."""
        found = []
        for slot, name in enumerate(_SLOTS):
            state = self._read(name)
            if state is not None:
                found.append(((state["attempt"], state["done"]), slot, state))
        if not found:
            return None
        _, slot, state = max(found, key=lambda one: one[0])
        self._next = 1 - slot
        return state

    def _read(self, name: str) -> State | None:
        if self._folder is None:
            return None
        path = self._folder / name
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._note(f"{path} cannot be read ({error.strerror}); the one before it is taken")
            return None
        digest, rest = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if _DIGEST(rest).digest() == digest:
            try:
                state: State = torch.load(io.BytesIO(rest), weights_only=True)
                return state
            except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError):
                pass  # whole, but not of ours
        self._note(f"{path} is damaged; the checkpoint before it is taken")
        return None
