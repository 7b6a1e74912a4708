"""Real surgery: a new, smaller module.

Slicing is a copy (:mod:`amc.modules.copying`) whose memo already holds the sliced parameters and
buffers, so that weights that are not kept are never copied; then the modules that state their sizes
as attributes are told the new ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from amc.modules.copying import copy_model
from amc.modules.unwrapping import unwrapped
from amc.pruning.slicing.empty_layers import replace_if_empty
from amc.tracing.attention import state_heads
from amc.tracing.deformable import deformable_layers, state_deformable
from amc.tracing.sizes import set_size
from amc.tracing.trace import named_tensors
from amc.tracing.units import Units

Kept = dict[str, list[tuple[int, Tensor]]]
"""For each sliced tensor: the dimension and the kept indices along it."""


def kept_indices(units: Units, widths: Sequence[int]) -> Kept:
    """Which indices of which dimensions stay, for every tensor that these widths make smaller."""
    found = _kept_indices(units, units.check(widths))
    return {
        name: [(dim, torch.from_numpy(index)) for dim, index in dims]
        for name, dims in found.items()
    }


@lru_cache(maxsize=1)  # one slice asks for it several times: to cut, to mask, to compare
def _kept_indices(units: Units, widths: tuple[int, ...]) -> dict[str, list[tuple[int, np.ndarray]]]:
    removed: dict[tuple[str, int], list[np.ndarray]] = {}
    for unit, width in zip(units, widths, strict=True):
        if width < unit.width:
            gone = unit.order[width:]
            for slot in unit.slots:
                removed.setdefault((slot.tensor, slot.dim), []).append(slot.index[gone].ravel())
    kept: dict[str, list[tuple[int, np.ndarray]]] = {}
    for (tensor, dim), parts in removed.items():
        stays = np.ones(units.sizes[tensor][dim], dtype=bool)
        stays[np.concatenate(parts)] = False
        kept.setdefault(tensor, []).append((dim, np.flatnonzero(stays)))
    return kept


def attribute_sizes(units: Units, widths: Sequence[int]) -> dict[str, int]:
    """The integers of modules that these widths change, ``blocks.0.attn.num_heads``, by path."""
    return _attribute_sizes(units, kept_indices(units, widths))


def _attribute_sizes(units: Units, kept: Kept) -> dict[str, int]:
    attributes = {slot.tensor for unit in units for slot in unit.slots if slot.purpose == "size"}
    sizes = {name: len(kept[name][0][1]) for name in kept if name in attributes}
    lengths = {(name, dim): len(index) for name, dims in kept.items() for dim, index in dims}
    for name, counted in units.followed.items():
        length = lengths.get((counted.tensor, counted.dim))
        if length is not None:
            sizes[name] = int(counted.ratio * length)
    return sizes


def slice_model(model: nn.Module, units: Units, widths: Sequence[int]) -> nn.Module:
    """A new module that keeps ``widths[u]`` groups of each unit; ``model`` is untouched.

    It has no wrappers (:mod:`amc.modules.unwrapping`). ``widths`` has one integer a unit, in
    1..unit.width, or 0 where the unit is droppable. Raises :class:`UnitError` otherwise, and
    :class:`ModelError` where a part of the network cannot be copied.
    """
    model, _ = unwrapped(model)
    kept = kept_indices(units, widths)
    small = _with_tensors(model, {id(old): new for old, _, new in sliced_tensors(model, kept)})
    for name, size in _attribute_sizes(units, kept).items():
        set_size(small, name, size)
    state_sizes(small)
    return small


def put_into(small: nn.Module, model: nn.Module, kept: Kept) -> nn.Module:
    """A copy of the sliced network ``small`` with what is ``kept`` of ``model``'s tensors."""
    own = {name: new for _, name, new in sliced_tensors(model, kept)}
    return _with_tensors(small, {id(old): own[name] for name, old in named_tensors(small)})


def sliced_tensors(model: nn.Module, kept: Kept) -> Iterator[tuple[Tensor, str, Tensor]]:
    """Each stored tensor of ``model``, its name, and a copy of what is ``kept`` of it."""
    for name, tensor in named_tensors(model):
        sliced: Tensor = tensor.detach()
        for dim, index in kept.get(name, ()):
            sliced = sliced.index_select(dim, index.to(sliced.device))
        own = sliced if name in kept else sliced.clone()
        is_parameter = isinstance(tensor, nn.Parameter)
        yield tensor, name, nn.Parameter(own, tensor.requires_grad) if is_parameter else own


def _with_tensors(model: nn.Module, tensors: dict[int, Any]) -> nn.Module:
    """A copy of ``model`` that holds ``tensors``, by the ``id`` of its own."""
    copied = copy_model(model, tensors)
    _compute_anew(copied)
    return copied


def _compute_anew(model: nn.Module) -> None:
    """Weights that hooks of ``torch.nn.utils`` compute before each forward: of what is left now."""
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():
            if type(hook).__module__.startswith("torch.nn.utils."):
                training, module.training = module.training, False
                with torch.no_grad():
                    hook(module, ())
                module.training = training


def state_sizes(model: nn.Module) -> None:
    """Set the size attributes of known modules from the shapes of their tensors."""
    for module in model.modules():
        if isinstance(module, _ConvNd):
            _state_conv(module)
        elif isinstance(module, deformable_layers()):
            state_deformable(module)
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, _NormBase):
            sized = module.weight if module.affine else module.running_mean
            if sized is not None:
                module.num_features = sized.shape[0]
        elif isinstance(module, nn.PReLU):
            module.num_parameters = module.weight.numel()
        elif isinstance(module, nn.GroupNorm):
            _state_group_norm(module)
        elif isinstance(module, nn.RNNBase):
            _state_recurrent(module)
        elif isinstance(module, nn.RNNCellBase):
            module.hidden_size, module.input_size = (
                module.weight_hh.shape[1],
                module.weight_ih.shape[1],
            )
        elif isinstance(module, nn.Embedding):
            module.embedding_dim = module.weight.shape[1]
        elif isinstance(getattr(module, "normalized_shape", None), tuple):  # any LayerNorm
            _state_norm(module)
        state_heads(module)
        replace_if_empty(module)


def _state_group_norm(norm: nn.GroupNorm) -> None:
    single = norm.num_groups == norm.num_channels
    norm.num_channels = len(norm.weight) if norm.affine else norm.num_channels
    norm.num_groups = norm.num_channels if single else norm.num_groups


def _state_norm(norm: Any) -> None:
    if isinstance(norm.weight, Tensor):
        norm.normalized_shape = tuple(norm.weight.shape)


def _state_recurrent(layer: Any) -> None:
    gates = {"LSTM": 4, "GRU": 3}.get(layer.mode, 1)
    layer.input_size = layer.weight_ih_l0.shape[1]
    layer.hidden_size = layer.weight_hh_l0.shape[0] // gates
    layer.proj_size = layer.weight_hr_l0.shape[0] if layer.proj_size else 0


def _state_conv(conv: _ConvNd) -> None:
    first, second = conv.weight.shape[:2]
    transposed = isinstance(conv, _ConvTransposeNd)
    if conv.groups > 1 and conv.groups == conv.in_channels:  # depthwise
        each = 1 if transposed else conv.out_channels // conv.in_channels
        conv.groups = max(1, first // each)
    per_group_out, per_group_in = (second, first) if transposed else (first, second)
    conv.out_channels = per_group_out * (conv.groups if transposed else 1)
    conv.in_channels = per_group_in * (1 if transposed else conv.groups)
