"""Weights from files, loaded without executing anything, and their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from amc.errors import WeightsError
from amc.models.named_states import NamedState, named_states
from amc.models.weights_file import read_file
from amc.utils.formatting import one_line

SHOWN = 3
"""Faulty tensors that a message names; the others are counted."""


def load_weights(model: nn.Module, file: str | Path) -> tuple[str, ...]:
    """Load a ``.safetensors`` file, or one of ``torch.save``, into ``model`` in place.

    The tensors may sit under any key, and their names may have any prefix; what fits the network is
    taken. Where both the weights and a moving average of them fit, that is the average; otherwise
    ``FILE#KEY`` says what to take: ``w.pth#model``. They are converted to the network's own
    precision. Nothing in the file is executed (:mod:`amc.models.weights_file`).

    Returns notes: what was chosen, and why. Raises :class:`WeightsError` where the file cannot be
    read, a tensor is missing, left over or of another shape, a value is not finite, or several sets
    of weights fit; the model is then unchanged.
    """
    path, key = _path_and_key(str(file))
    wanted = {name: x for name, x in model.state_dict().items() if isinstance(x, Tensor)}
    content = read_file(path)
    found = [state for state in named_states(content, wanted) if _is_part(key, state.label)]
    if not found:
        raise WeightsError(_nothing(content, path, key))
    fitting = [state for state in found if state.fits]
    if not fitting:
        nearest = max(found, key=lambda state: state.nearness)
        if nearest.missing and nearest.unexpected and _renamed(model, nearest, path):
            return ()
        raise WeightsError(f"{path} does not fit the model: {_faults(nearest)}")
    chosen, notes = _choose(fitting, path)
    state = {name: chosen.state[name] for name in wanted if name in chosen.state}
    model.load_state_dict(_converted(state, wanted, path), strict=False)
    return notes


def _path_and_key(file: str) -> tuple[Path, str]:
    path = Path(file).expanduser()
    name, _, key = file.rpartition("#")
    return (Path(name).expanduser(), key) if name and not path.exists() else (path, "")


def _is_part(key: str, label: str) -> bool:
    return not key or f".{key}." in f".{label}."


def _choose(fitting: Sequence[NamedState], path: Path) -> tuple[NamedState, tuple[str, ...]]:
    """Of the states that fit the one to take; notes where that was a choice."""
    averages = [state for state in fitting if state.averaged]
    chosen = (averages or fitting)[0]
    others = [x for x in averages or fitting if x is not chosen and not _equal(x, chosen)]
    if others:
        labels = [one_line(x.label or "the rest", 60) for x in (chosen, *others)]
        raise WeightsError(
            f"{path}: holds several sets of weights that fit, {_some(labels)}; name one: "
            f"{path}#{labels[-1]}"
        )
    notes = []
    raw = next((x for x in fitting if not x.averaged), None)
    if averages and raw is not None:
        other = f"; {path.name}#{one_line(raw.label, 60)} takes the others" if raw.label else ""
        notes.append(
            f"weights  {path.name} holds weights and their moving average: the average "
            f"({one_line(chosen.label, 60)}) is taken, as it mostly generalises better{other}"
        )
    if chosen.beside:
        notes.append(
            f"weights  {path.name}: what is under {one_line(chosen.label, 60)} fits the network; "
            f"left out are {_some(chosen.beside)}"
        )
    return chosen, tuple(notes)


def _equal(a: NamedState, b: NamedState) -> bool:
    return all(torch.equal(a.state[name], b.state[name]) for name in a.wanted if name in a.state)


def _converted(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """``state`` in the network's own types, finite."""
    converted = {}
    for name, tensor in state.items():
        own = wanted[name].dtype
        if tensor.is_quantized or tensor.is_sparse or tensor.is_meta:
            kind = (
                "quantised" if tensor.is_quantized else "sparse" if tensor.is_sparse else "absent"
            )
            raise WeightsError(
                f"{path}: the values of {one_line(name, 80)} are {kind}; save dense ones, in "
                "floating point"
            )
        inexact = own.is_floating_point or own.is_complex
        real_or_complex = tensor.is_floating_point(), tensor.is_complex()
        if inexact and real_or_complex != (own.is_floating_point, own.is_complex):
            raise WeightsError(
                f"{path}: {one_line(name, 80)} holds {tensor.dtype}, the network {own}; give "
                "weights of the network's kind, from before they were quantised or converted"
            )
        converted[name] = tensor.to(own)
        if inexact and not bool(torch.isfinite(converted[name]).all()):
            raise WeightsError(
                f"{path}: {one_line(name, 80)} holds values that are not finite (NaN or infinite)"
            )
    return converted


def _renamed(model: nn.Module, nearest: NamedState, path: Path) -> bool:
    """Whether the network's own modules know the file's names, as PyTorch's do older ones.

    Then they are loaded; otherwise the network is as before.
    """
    if any(map(is_lazy, nearest.wanted.values())):
        return False
    before = {name: tensor.clone() for name, tensor in nearest.wanted.items()}
    try:
        model.load_state_dict(nearest.state)
        _converted(model.state_dict(), before, path)
    except Exception as error:  # the modules' own code
        model.load_state_dict(before, strict=False)
        if isinstance(error, WeightsError):
            raise
        return False
    return True


def _faults(state: NamedState) -> str:
    """What does not fit, the commonest case in plain words."""
    shapes = [
        f"{name} {tuple(state.state[name].shape)} for {tuple(state.wanted[name].shape)}"
        for name in state.misshapen
    ]
    named = (("missing", state.missing), ("unexpected", state.unexpected), ("shape", shapes))
    faults = "; ".join(f"{label} {_some(names)}" for label, names in named if names)
    if state.missing or state.unexpected or not _is_head(state):
        return faults
    name = state.misshapen[0]
    given, own = len(state.state[name]), len(state.wanted[name])
    return (
        f"its last layer has {given} outputs, the model's {own}; build the model with as many "
        f"(num_classes={given}), or give weights for {own} ({faults})"
    )


def _is_head(state: NamedState) -> bool:
    """Whether only the last layer differs, in the number of its outputs."""
    last = [*state.wanted][-1].rpartition(".")[0]
    return all(
        name.rpartition(".")[0] == last
        and state.state[name].dim() > 0
        and state.state[name].shape[1:] == state.wanted[name].shape[1:]
        for name in state.misshapen
    )


def _nothing(content: object, path: Path, key: str) -> str:
    if key:
        return f"{path}: has no tensors under {one_line(key, 60)!r}"
    if not isinstance(content, Mapping):
        return f"{path}: holds {type(content).__name__}, not named tensors"
    return (
        f"{path}: {_some([*map(str, content)])} not tensors; save model.state_dict(), alone or "
        "under the key 'state_dict'"
    )


def _some(names: Sequence[str]) -> str:
    """``3: a, b, c`` or ``7: a, b, c, ...``."""
    more = ", ..." if len(names) > SHOWN else ""
    return f"{len(names)}: {', '.join(one_line(name, 80) for name in names[:SHOWN])}{more}"


def weights_sha256(model: nn.Module) -> str:
    """Hash of all parameters and buffers, by name and content."""
    state = model.state_dict()
    return tensors_sha256({name: x for name, x in state.items() if isinstance(x, Tensor)})


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Hash of named tensors in any order: names, shapes, types and bits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
