"""Artefacts: a sliced network as one safetensors file that executes nothing when it is loaded.

The file holds the tensors; its metadata is JSON and names the factory that builds the dense
network. Loading builds that, puts the smaller tensors in place, and states the modules' sizes anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from amc.config import ModelConfig, Settings, explain
from amc.errors import ModelError
from amc.models import build_model, check_allowed
from amc.plan import Plan
from amc.slim import state_sizes

FORMAT = "amc.model/1"


class ModelCard(Settings):
    """Metadata of a saved network."""

    format: str
    model: ModelConfig
    plan: Plan
    finetuned_epochs: int = 0


def save_model(
    model: nn.Module, plan: Plan, path: Path | str, *, finetuned_epochs: int = 0
) -> None:
    """Write a sliced network. Raises :class:`ModelError` where its plan names no factory."""
    if plan.model is None:
        raise ModelError("this network was handed over as an object; give its factory to save it")
    card = ModelCard(format=FORMAT, model=plan.model, plan=plan, finetuned_epochs=finetuned_epochs)
    state = model.state_dict()
    tensors = {name: state[name].contiguous() for name in _names(model)}
    path = Path(path)
    draft = path.with_suffix(".tmp")
    save_file(tensors, draft, {"amc": card.model_dump_json()})
    draft.replace(path)


def load_model(path: Path | str, *, allow_factory: bool = False) -> tuple[nn.Module, ModelCard]:
    """Rebuild a saved network, bit-equal, in evaluation mode, with its card.

    A factory in a Python file of the user's is run only with ``allow_factory``: the name of the
    file comes with the artefact, and so from whoever made it. Raises :class:`ModelError` for a
    file that is damaged, of another kind or version, or does not fit its factory.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            card = _card(path, (file.metadata() or {}).get("amc"))
            check_allowed(card.model, path, allow_factory)
            model = build_model(card.model.model_copy(update={"weights": None}))
            _put_tensors(model, {name: file.get_tensor(name) for name in file.keys()}, path)  # noqa: SIM118
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable safetensors file: {error}") from None
    state_sizes(model)
    return model.eval(), card


def _card(path: Path, text: str | None) -> ModelCard:
    if text is None:
        raise ModelError(f"{path} holds weights only; it was not saved by this project")
    try:
        found = json.loads(text).get("format")
        if found != FORMAT:
            raise ModelError(f"{path}: format {found!r} is not {FORMAT!r}; update amc-agent")
        return ModelCard.model_validate_json(text)
    except (ValidationError, json.JSONDecodeError, AttributeError) as error:
        detail = explain(error) if isinstance(error, ValidationError) else str(error)
        raise ModelError(f"{path}: damaged metadata: {detail}") from None


def _names(model: nn.Module) -> dict[str, list[str]]:
    """All names of each stored tensor (several where layers are tied), by the first of them."""
    first: dict[int, str] = {}
    names: dict[str, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(first.setdefault(id(tensor), name), []).append(name)
    return names


def _put_tensors(model: nn.Module, tensors: dict[str, torch.Tensor], path: Path) -> None:
    expected, names = model.state_dict(keep_vars=True), _names(model)
    wrong = sorted(names.keys() ^ tensors.keys())
    if wrong:
        raise ModelError(f"{path} does not fit its factory: {wrong[0]} is on one side only")
    for name, tensor in tensors.items():
        before = expected[name].shape
        if tensor.dim() != len(before) or any(
            a > b for a, b in zip(tensor.shape, before, strict=True)
        ):
            raise ModelError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, the factory's {tuple(before)}"
            )
        # A copy: the file's own memory is not aligned, and kernels would round otherwise on it.
        own = tensor.clone()
        if isinstance(expected[name], nn.Parameter):
            own = nn.Parameter(own)
        for alias in names[name]:
            owner, _, attribute = alias.rpartition(".")
            setattr(model.get_submodule(owner), attribute, own)
