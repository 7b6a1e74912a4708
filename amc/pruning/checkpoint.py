"""Artefacts: a sliced network as one safetensors file that executes nothing when it is loaded.

The file holds the tensors; its metadata is JSON and names the factory that builds the dense
network. Loading builds that, puts the smaller tensors in place, and states the modules' sizes anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from amc.config import ModelConfig
from amc.errors import ModelError
from amc.models.factory import build_model, check_allowed
from amc.models.preparation import Preparation
from amc.models.weights import tensors_sha256
from amc.modules.completing import initialise_lazy_
from amc.pruning.plan import Plan
from amc.pruning.slicing.slice import state_sizes
from amc.tracing.inputs import example_of
from amc.tracing.sizes import set_size
from amc.tracing.trace import named_tensors
from amc.utils.atomic_files import replacing
from amc.utils.settings import Settings, explain

FORMAT = "amc.model/1"


class ModelCard(Settings):
    """Metadata of a saved network."""

    format: str
    model: ModelConfig
    plan: Plan
    finetuned_epochs: int = 0
    preparation: Preparation | None = None
    """How its images were prepared; None (older files, other tasks): nobody says."""
    tensors_sha256: str | None = None
    """Of all tensors in the file; None (older files): nothing tells whether they are intact."""


def save_model(
    model: nn.Module,
    plan: Plan,
    path: Path | str,
    *,
    finetuned_epochs: int = 0,
    preparation: Preparation | None = None,
) -> None:
    """Write a sliced network: its parameters and all its buffers, the non-persistent ones too.

    A buffer that no state dict holds may have been sliced all the same, and its factory would give
    it back whole. Complex numbers of a kind that safetensors lacks (complex128) are stored as pairs
    of real ones. Raises :class:`ModelError` where the plan names no factory, or where a tensor is
    of a kind that safetensors cannot hold (sparse).
    """
    if plan.model is None:
        raise ModelError("this network was handed over as an object; give its factory to save it")
    path = Path(path)
    with replacing(path) as draft:
        try:
            # Copies, because safetensors refuses tensors that share their memory.
            tensors = {
                name: _storable(tensor.detach()).clone(memory_format=torch.contiguous_format)
                for name, tensor in named_tensors(model)
            }
            card = ModelCard(
                format=FORMAT,
                model=plan.model,
                plan=plan,
                finetuned_epochs=finetuned_epochs,
                preparation=preparation,
                tensors_sha256=tensors_sha256(tensors),
            )
            save_file(tensors, draft, {"amc": card.model_dump_json()})
        except Exception as error:  # a full disk, or a kind of tensor that it does not know
            raise ModelError(f"{path} cannot be written: {error}") from error


def load_model(path: Path | str, *, allow_factory: bool = False) -> tuple[nn.Module, ModelCard]:
    """Rebuild a saved network on the CPU, bit-equal, in evaluation mode, with its card.

    A factory in a Python file of the user's is run only with ``allow_factory``: the name of the
    file comes with the artefact, and so from whoever made it. Raises :class:`ModelError` for a
    file that is damaged, of another kind or version, or does not fit its factory.
    """
    path = Path(path)
    card, tensors = _read(path)
    check_allowed(card.model, path, allow_factory)
    try:
        model = build_model(untrained(card.model))
        if (shape := card.plan.input_shape) is not None:
            initialise_lazy_(model, lambda: model(example_of(model, shape)))
    except ModelError as error:
        raise ModelError(f"{path} cannot be rebuilt: {error}") from error
    _put_tensors(model, tensors, path)
    for attribute, size in card.plan.sizes.items():
        try:
            set_size(model, attribute, size)
        except (AttributeError, IndexError, TypeError) as error:
            raise ModelError(f"{path} does not fit its factory: {attribute}: {error}") from None
    state_sizes(model)
    params = sum(parameter.numel() for parameter in model.parameters())
    if params != card.plan.costs["params"]:
        raise ModelError(
            f"{path}: its plan leaves {card.plan.costs['params']:,} parameters, its tensors hold "
            f"{params:,}"
        )
    return model.eval(), card


def read_card(path: Path | str) -> ModelCard:
    """What a saved network says of itself; raises :class:`ModelError` for a damaged file."""
    return _read(Path(path))[0]


def _read(path: Path) -> tuple[ModelCard, dict[str, Tensor]]:
    """Card and tensors of a file, nothing of it built yet."""
    try:
        with safe_open(path, framework="pt") as file:
            card = _card(path, (file.metadata() or {}).get("amc"))
            # Copies: the file's own memory is not aligned, and kernels would round otherwise on it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: not a readable safetensors file: {error}") from None
    if card.tensors_sha256 not in (None, tensors_sha256(tensors)):
        raise ModelError(f"{path}: damaged: its tensors are not those that were saved")
    return card, tensors


def _card(path: Path, text: str | None) -> ModelCard:
    if text is None:
        raise ModelError(f"{path} holds weights only; it was not saved by this project")
    try:
        found = json.loads(text).get("format")
        if found != FORMAT:
            raise ModelError(f"{path}: format {found!r} is not {FORMAT!r}; update amc-agent")
        return ModelCard.model_validate_json(text)
    # ValueError: what is not JSON, and integers of thousands of digits.
    except (ValueError, AttributeError, RecursionError) as error:
        detail = explain(error) if isinstance(error, ValidationError) else str(error)
        raise ModelError(f"{path}: damaged metadata: {detail}") from None


def untrained(config: ModelConfig) -> ModelConfig:
    """``config`` without the weights that the dense network once came from.

    They would be read or downloaded only to be replaced, and an artefact from elsewhere could name
    a file for timm to unpickle.
    """
    arguments = dict(config.arguments)
    if config.spec.startswith("timm:"):
        for name in ("pretrained", "checkpoint_path"):
            arguments.pop(name, None)
    return config.model_copy(update={"weights": None, "arguments": arguments})


def _storable(tensor: Tensor) -> Tensor:
    """As safetensors can hold it: complex128 as (..., 2) real and imaginary parts."""
    lacking = tensor.dtype in (torch.complex128, torch.complex32)
    return torch.view_as_real(tensor.resolve_conj()) if lacking else tensor


def _restored(stored: Tensor, before: Tensor) -> Tensor:
    """What :func:`_storable` stored for the factory's tensor ``before``."""
    pairs = before.is_complex() and not stored.is_complex() and stored.shape[-1:] == (2,)
    return torch.view_as_complex(stored) if pairs else stored


def _put_tensors(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Put the file's tensors in the place of the factory's, whatever refers to those (ties too)."""
    places = dict(named_tensors(model))
    wrong = sorted(places.keys() ^ tensors.keys())
    if wrong:
        raise ModelError(f"{path} does not fit its factory: {wrong[0]} is on one side only")
    for name, tensor in tensors.items():
        before = places[name]
        if is_lazy(before):
            raise ModelError(
                f"{path}: {name} of its factory is lazy, and the plan has no example input to "
                "initialise it; let the factory run the network once"
            )
        tensor = _restored(tensor, before)
        smaller = tensor.dim() == before.dim() and all(
            a <= b for a, b in zip(tensor.shape, before.shape, strict=True)
        )
        if not smaller:
            raise ModelError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, the factory's "
                f"{tuple(before.shape)}"
            )
        # A network may have been converted (half, bfloat16), but never from counts to weights.
        floats = tensor.is_floating_point() and before.is_floating_point()
        complex_both = tensor.is_complex() and before.is_complex()
        if tensor.dtype != before.dtype and not (floats or complex_both):
            raise ModelError(f"{path}: {name} is {tensor.dtype}, the factory's {before.dtype}")
        before.data = tensor
