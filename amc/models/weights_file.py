"""What a file of weights holds, read without executing anything.

Pickles go through PyTorch's restricted unpickler (``weights_only=True``). What training scripts
leave beside the tensors (``argparse.Namespace``, NumPy's numbers and arrays, paths, dates) becomes
a stand-in of ours: neither the class that is named nor any function of NumPy's is called. Whatever
is not on that list is refused.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

from amc.errors import WeightsError
from amc.utils.formatting import one_line

PICKLED = (".pth", ".pt", ".ckpt", ".bin", ".tar")
"""Endings of files that ``torch.save`` writes; ``.pth.tar`` is among them."""
_NUMBERS = "biufc"
"""Kinds of NumPy's types that are numbers."""


class Ignored:
    """Stands for an object beside the tensors, of which nothing is kept."""

    def __new__(cls, *_: Any) -> Self:
        """Whatever it was made of."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Nothing of ``state`` is kept."""


class _DType:
    """``numpy.dtype``: of a number, or of anything else."""

    def __init__(self, code: object = "", *_: object) -> None:
        self._code, self._order = str(code), "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._order = str(state[1])

    def known(self) -> np.dtype[Any] | None:
        """The type; None where it is not one of numbers, or is no type at all."""
        if not re.fullmatch(rf"[{_NUMBERS}]\d{{1,2}}", self._code):
            return None
        try:
            return np.dtype(self._code).newbyteorder("<" if self._order == "<" else ">")
        except (TypeError, ValueError):
            return None


class StoredArray:
    """``numpy.ndarray``, or one of NumPy's numbers."""

    def __init__(self, *_: object) -> None:
        self._shape: Any = ()
        self._dtype: Any = None
        self._columns = False
        self._bytes: Any = b""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self._shape, self._dtype, self._columns, self._bytes = state

    def tensor(self) -> Tensor | None:
        """Its values; None where they are no numbers, or not as many as its shape says."""
        dtype = self._dtype.known() if isinstance(self._dtype, _DType) else None
        if dtype is None or not isinstance(self._bytes, bytes):
            return None
        try:
            flat = np.frombuffer(self._bytes, dtype).astype(dtype.newbyteorder("="))
            return torch.from_numpy(flat.reshape(self._shape, order="F" if self._columns else "C"))
        except (TypeError, ValueError):
            return None


def _stored_number(dtype: object = None, content: object = b"", *_: object) -> StoredArray:
    number = StoredArray()
    number.__setstate__((1, (), dtype, False, content))
    return number


def _new_array(*_: object) -> StoredArray:
    return StoredArray()


def _new_list(*_: object) -> list[Any]:
    return []


def _new_dict(*_: object) -> dict[Any, Any]:
    return {}


_STAND_INS: list[Any] = [
    (_DType, "numpy.dtype"),
    (StoredArray, "numpy.ndarray"),
    *((_stored_number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_new_array, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    (_new_dict, "collections.defaultdict"),
    (_new_list, "collections.deque"),
    *(
        (Ignored, name)
        for name in (
            "argparse.Namespace",
            "types.SimpleNamespace",
            *(f"pathlib.{kind}Path" for kind in ("Posix", "Windows", "PurePosix", "PureWindows")),
            *(f"pathlib._local.{kind}Path" for kind in ("Posix", "Windows")),
            *(f"datetime.{kind}" for kind in ("datetime", "date", "time", "timedelta")),
            *(f"builtins.{kind}" for kind in ("list", "dict", "int", "float", "str", "tuple")),
            *(f"__builtin__.{kind}" for kind in ("list", "dict", "int", "float", "str", "tuple")),
        )
    ),
]
"""What may stand beside the tensors, by the name that a pickle gives it, and what it becomes."""


def read_file(path: Path) -> object:
    """What ``path`` holds, on the CPU: nested dictionaries and lists of tensors and others.

    Raises :class:`WeightsError`, one line, where it cannot be read, or not without running code.
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in PICKLED:
            _refuse_scripted(path)
            return _unpickle(path)
    except WeightsError:
        raise
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {_first(error)}") from None
    except pickle.UnpicklingError as error:
        raise WeightsError(_refusal(path, str(error))) from None
    except Exception as error:  # what PyTorch raises on damaged bytes is not documented
        raise WeightsError(
            f"{path}: not a readable PyTorch file, damaged or not complete ({_first(error)})"
        ) from None
    endings = ", ".join(PICKLED)
    raise WeightsError(f"{path}: weights must end in .safetensors, or in one of {endings}")


def _first(error: Exception) -> str:
    """The first sentence of an error of a library's."""
    return one_line(str(error).partition(". ")[0], 120) or type(error).__name__


def _unpickle(path: Path) -> object:
    with warnings.catch_warnings(), safe_globals(_STAND_INS):
        warnings.simplefilter("ignore")  # of pickle protocols and old storages
        return torch.load(path, map_location="cpu", weights_only=True)


def _refuse_scripted(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/")[2] for name in archive.namelist()}
    if "constants.pkl" in names:
        raise WeightsError(
            f"{path}: holds a scripted network (TorchScript), which is code, and is not loaded; in "
            "Python that you trust, save its tensors alone: "
            f'torch.save(torch.jit.load("{path.name}").state_dict(), "weights.pth")'
        )


def _refusal(path: Path, error: str) -> str:
    """Why the restricted unpickler refuses ``path``, and what to do."""
    remedy = "in Python that you trust, load it and save model.state_dict() alone"
    found = re.search(r"GLOBAL (\S+)", error)
    if found is None:
        return (
            f"{path}: not a readable PyTorch file: damaged, or not written by torch.save; {remedy}"
        )
    name = one_line(found.group(1), 80)
    return (
        f"{path}: holds more than tensors ({name}), which only code could rebuild, and is not "
        f"loaded; {remedy}"
    )
