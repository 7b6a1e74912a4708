"""Weights from files, loaded without executing anything, and their hashes."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from amc.errors import WeightsError

SHOWN = 3
"""Faulty tensors that a message names; the others are counted."""


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a ``.safetensors``, ``.pth`` or ``.pt`` file into ``model`` in place, strictly.

    The tensors may sit under ``state_dict`` or ``model``, and their names may start with
    ``module.`` (data-parallel training). Nothing in the file is executed: pickles go through
    PyTorch's restricted unpickler (``weights_only=True``).

    Raises :class:`WeightsError` where the file cannot be read, a tensor is missing, left over or
    of another shape, or a value is not finite; the model is then unchanged.
    """
    path = Path(path).expanduser()
    state = _strip_prefix(_find_state(_read(path), path))
    _check_fit(model.state_dict(), state, path)
    for name, tensor in state.items():
        inexact = tensor.is_floating_point() or tensor.is_complex()
        if inexact and not bool(torch.isfinite(tensor).all()):
            raise WeightsError(f"{path}: {name} holds values that are not finite (NaN or infinite)")
    model.load_state_dict(state)


def _read(path: Path) -> object:
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix in (".pth", ".pt"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a readable safetensors file: {error}") from None
    except pickle.UnpicklingError as error:
        first = str(error).strip().splitlines()[0]
        raise WeightsError(
            f"{path}: holds more than tensors, or is damaged, and is not loaded; save "
            f"model.state_dict() instead of the model ({first})"
        ) from None
    except Exception as error:  # what PyTorch raises on damaged bytes is not documented
        raise WeightsError(f"{path}: not a readable PyTorch file: {error}") from None
    raise WeightsError(f"{path}: weights must end in .safetensors, .pth or .pt")


def _find_state(content: object, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: holds {type(content).__name__}, not named tensors")
    others = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise WeightsError(
            f"{path}: {_some(others)} not tensors; save model.state_dict(), alone or under "
            "the key 'state_dict'"
        )
    return {str(name): tensor for name, tensor in content.items()}


def _strip_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def _check_fit(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], path: Path) -> None:
    # Older files lack BatchNorm's counter, which no forward in eval mode reads.
    missing = [n for n in wanted if n not in given and not n.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in wanted]
    shapes = [
        f"{name} {tuple(given[name].shape)} for {tuple(wanted[name].shape)}"
        for name in wanted
        if name in given and given[name].shape != wanted[name].shape
    ]
    faults = [
        f"{label} {_some(names)}"
        for label, names in (("missing", missing), ("unexpected", unexpected), ("shape", shapes))
        if names
    ]
    if faults:
        raise WeightsError(f"{path} does not fit the model: {'; '.join(faults)}")


def _some(names: list[str]) -> str:
    """``3: a, b, c`` or ``7: a, b, c, ...``."""
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)}: {', '.join(names[:SHOWN])}{more}"


def weights_sha256(model: nn.Module) -> str:
    """Hash of all parameters and buffers, by name and content."""
    return tensors_sha256(model.state_dict())


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash of named tensors in any order: names, shapes, types and bits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
