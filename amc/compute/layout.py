"""Memory layouts that are known to be sound on this machine."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from amc.compute.convolutions import convolutions, layers
from amc.compute.kernel_check import unsound
from amc.compute.precision import has_fast_bf16


@contextlib.contextmanager
def fast_layout(
    model: nn.Module,
    example: Tensor,
    *,
    backward: bool,
    bf16: bool | None = None,
    safe: bool = False,
) -> Iterator[tuple[str, ...]]:
    """``model`` with its weights in channels_last, but for layers whose kernels are unsound here.

    Yields the names of the layers that run contiguous. Afterwards all weights are contiguous, as
    files of weights want them. Copies that are made meanwhile keep the layouts.

    Args:
        model: on the device on which it runs.
        example: a batch as it will be seen, on that device.
        backward: whether gradients will be taken, too.
        bf16: whether it runs under autocast to bfloat16; None: wherever :func:`has_fast_bf16`.
        safe: no layer in channels_last, whatever is known.
    """
    if safe:
        names = tuple(layers(model))
    else:
        names = unsound_layers(model, example, backward=backward, bf16=bf16)
        model.to(memory_format=torch.channels_last)
    try:
        with contiguous_layers(model, names, whole=safe):
            yield names
    finally:
        _make_contiguous_(model)


def unsound_layers(
    model: nn.Module, example: Tensor, *, backward: bool, bf16: bool | None = None
) -> tuple[str, ...]:
    """Names of the convolutions of ``model`` that must run contiguous; on CPUs only.

    With ``backward`` each is tried at its widths. Without, the verdict holds for all widths that
    pruning may give the layer, so that a search asks once: on the processor with the faulty
    gradient none of 12 000 forwards was (kernels of 1 to 7, strides of 1 to 3, all pairs of 23
    widths, grouped and depthwise).
    """
    return _doubtful(model, example, backward, bf16, _images(backward=backward))


def suspects(model: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Names of the convolutions that fail, forward or backward, with all images of ``example``."""
    return _doubtful(model, example, True, None, len(example))


@contextlib.contextmanager
def contiguous_layers(
    model: nn.Module, names: Collection[str], *, whole: bool = False
) -> Iterator[None]:
    """Run the layers ``names`` contiguous, and hand on channels_last.

    With ``whole`` nothing is handed on in channels_last, and the network's own inputs are made
    contiguous. Names that the network has not are passed over.
    """
    chosen = [layer for name, layer in layers(model).items() if name in names]
    handles = []
    for layer in chosen:
        _make_contiguous_(layer)
        handles.append(layer.register_forward_pre_hook(_contiguous_inputs))
        if not whole:
            handles.append(layer.register_forward_hook(_channels_last_output))
    if whole:
        handles.append(model.register_forward_pre_hook(_contiguous_inputs))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _doubtful(
    model: nn.Module, example: Tensor, backward: bool, bf16: bool | None, images: int
) -> tuple[str, ...]:
    if example.device.type != "cpu" or not layers(model):
        return ()
    bf16 = has_fast_bf16("cpu") if bf16 is None else bf16
    found = convolutions(model, example, images=images, bf16=bf16, backward=backward)
    if not backward:
        found = {name: {each.of_any_width() for each in used} for name, used in found.items()}
    condemned = unsound(each for used in found.values() for each in sorted(used, key=repr))
    return tuple(name for name, used in found.items() if used & condemned)


def _images(*, backward: bool) -> int:
    """Images of a trial: the known fault shows from the second one that a thread is given."""
    return (4 if backward else 2) * torch.get_num_threads()


def _contiguous_inputs(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_contiguous(each) if isinstance(each, Tensor) else each for each in inputs)


def _channels_last_output(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return output.contiguous(memory_format=torch.channels_last)


def _make_contiguous_(module: nn.Module) -> None:
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = _contiguous(tensor.data)


def _contiguous(tensor: Tensor) -> Tensor:
    """The tensor with the strides of the contiguous layout.

    Where channels, or height and width, are 1, a tensor is contiguous in both layouts, and
    ``Tensor.contiguous`` leaves strides by which PyTorch would choose kernels for channels_last.
    """
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.clone(memory_format=torch.contiguous_format)
    return tensor.contiguous()
