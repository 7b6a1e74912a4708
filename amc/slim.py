"""Real surgery: a new, smaller module, and the proof that it computes what the masked network does.

Slicing is a ``copy.deepcopy`` whose memo already holds the sliced parameters and buffers, so that
weights that are not kept are never copied; then the modules that state their sizes as attributes
are told the new ones.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from amc.errors import VerificationError
from amc.trace import as_inputs, eval_mode, named_tensors, output_tensors
from amc.units import Units

TOLERANCE = 1e-4
"""Largest error of a sliced network, relative to the largest output of its masked twin."""

Kept = dict[str, list[tuple[int, Tensor]]]
"""For each sliced tensor: the dimension and the kept indices along it."""


def kept_indices(units: Units, widths: Sequence[int]) -> Kept:
    """Which indices of which dimensions stay, for every tensor that these widths make smaller."""
    removed: dict[tuple[str, int], list[Tensor]] = {}
    for unit, width in zip(units, units.check(widths), strict=True):
        if width < unit.width:
            gone = torch.from_numpy(unit.order[width:].copy())
            for slot in unit.slots:
                index = torch.from_numpy(slot.index)[gone].flatten()
                removed.setdefault((slot.tensor, slot.dim), []).append(index)
    kept: Kept = {}
    for (tensor, dim), parts in removed.items():
        stays = torch.ones(units.sizes[tensor][dim], dtype=torch.bool)
        stays[torch.cat(parts)] = False
        kept.setdefault(tensor, []).append((dim, stays.nonzero().flatten()))
    return kept


def slice_model(model: nn.Module, units: Units, widths: Sequence[int]) -> nn.Module:
    """A new module that keeps ``widths[u]`` groups of each unit; ``model`` is untouched.

    ``widths`` has one integer a unit, in 1..unit.width. Raises :class:`UnitError` otherwise.
    """
    kept = kept_indices(units, widths)
    memo: dict[int, Any] = {}
    for name, tensor in named_tensors(model):
        sliced: Tensor = tensor.detach()
        for dim, index in kept.get(name, ()):
            sliced = sliced.index_select(dim, index.to(sliced.device))
        own = sliced if name in kept else sliced.clone()
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(own, tensor.requires_grad) if is_parameter else own
    small = copy.deepcopy(model, memo)
    state_sizes(small)
    return small


def state_sizes(model: nn.Module) -> None:
    """Set the size attributes of known modules from the shapes of their tensors."""
    for module in model.modules():
        if isinstance(module, _ConvNd):
            _state_conv(module)
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, _NormBase):
            sized = module.weight if module.affine else module.running_mean
            if sized is not None:
                module.num_features = sized.shape[0]
        elif isinstance(module, nn.PReLU):
            module.num_parameters = module.weight.numel()


def _state_conv(conv: _ConvNd) -> None:
    first, second = conv.weight.shape[:2]
    transposed = isinstance(conv, _ConvTransposeNd)
    if conv.groups > 1 and conv.groups == conv.in_channels and not transposed:  # depthwise
        conv.groups = first // (conv.out_channels // conv.in_channels)
    per_group_out, per_group_in = (second, first) if transposed else (first, second)
    conv.out_channels = per_group_out * (conv.groups if transposed else 1)
    conv.in_channels = per_group_in * (1 if transposed else conv.groups)


@contextmanager
def masked(model: nn.Module, units: Units, widths: Sequence[int]) -> Iterator[nn.Module]:
    """The masked twin: ``model`` itself, for a while, its removed channels read by nobody.

    Every weight slice that consumes a removed channel is zero inside the context, and restored bit
    by bit on leaving.
    """
    tensors = dict(named_tensors(model))
    saved: list[tuple[Tensor, Tensor]] = []
    readers = {(s.tensor, s.dim) for unit in units for s in unit.slots if s.role == "in"}
    try:
        with torch.no_grad():
            for name, dims in kept_indices(units, widths).items():
                for dim, index in dims:
                    if (name, dim) in readers:
                        weight = tensors[name]
                        saved.append((weight, weight.detach().clone()))
                        keep = torch.zeros(weight.shape[dim], device=weight.device)
                        keep[index] = 1
                        weight.mul_(keep.view(-1, *[1] * (weight.dim() - dim - 1)))
        yield model
    finally:
        with torch.no_grad():
            for weight, original in reversed(saved):
                weight.copy_(original)


def verify(
    model: nn.Module,
    small: nn.Module,
    units: Units,
    widths: Sequence[int],
    example_inputs: Any,
    tolerance: float = TOLERANCE,
) -> float:
    """Worst error of ``small`` against the masked twin of ``model``, over the largest output.

    Both run once in evaluation mode on ``example_inputs``. Raises :class:`VerificationError` above
    ``tolerance``, where shapes differ, or where the small network fails.
    """
    inputs = as_inputs(example_inputs)
    with torch.inference_mode(), eval_mode(model), eval_mode(small):
        with masked(model, units, widths) as twin:
            expected = output_tensors(twin(*inputs))
        try:
            actual = output_tensors(small(*inputs))
        except Exception as error:
            raise VerificationError(f"the sliced network fails: {_first_line(error)}") from error
    if [x.shape for x in actual] != [x.shape for x in expected]:
        raise VerificationError(
            "the sliced network's outputs have other shapes than the dense one's"
        )
    errors = [0.0]
    for small_output, twin_output in zip(actual, expected, strict=True):
        if twin_output.numel() and twin_output.is_floating_point():
            scale = float(twin_output.abs().max()) or 1.0
            errors.append(float((small_output - twin_output).abs().max()) / scale)
    worst = math.nan if any(map(math.isnan, errors)) else max(errors)
    if not worst <= tolerance:  # also catches NaN
        raise VerificationError(
            f"the sliced network differs from its masked twin by {worst:.1e} of the largest output "
            f"(at most {tolerance:.0e} is rounding)"
        )
    return worst


def _first_line(error: BaseException) -> str:
    """What failed and, where it can be told, at which line of the model's own code."""
    folder = torch.__path__[0]
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith(folder) and file != __file__:
            place = f" (at {file.rpartition('/')[2]}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{str(error).splitlines()[0] if str(error) else type(error).__name__}{place}"
