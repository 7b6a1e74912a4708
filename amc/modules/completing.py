"""Networks that are not quite there yet: lazy layers, tensors that inference mode has made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from amc.errors import ModelError
from amc.utils.formatting import one_line


def ordinary_(model: nn.Module) -> None:
    """Tensors that were made in inference mode are replaced by ordinary ones, in place: these can
    be trained, and cut. What was one tensor under several names stays one."""
    made: dict[int, Tensor] = {}
    with torch.inference_mode(False), torch.no_grad():
        for module in model.modules():
            for name, tensor in _named(module, recurse=False):
                if is_lazy(tensor) or tensor.is_inference():  # which the lazy ones do not say
                    if id(tensor) not in made:
                        made[id(tensor)] = _ordinary(tensor)
                    setattr(module, name, made[id(tensor)])


def _ordinary(tensor: Any) -> Tensor:
    if is_lazy(tensor):
        like = {"device": tensor.device, "dtype": tensor.dtype}
        kind: Any = type(tensor)
        if isinstance(tensor, nn.Parameter):
            like["requires_grad"] = tensor.requires_grad
        return kind(**like)  # type: ignore[no-any-return]
    copied: Tensor = tensor.detach().clone()
    is_parameter = isinstance(tensor, nn.Parameter)
    return nn.Parameter(copied, tensor.requires_grad) if is_parameter else copied


def initialise_lazy_(model: nn.Module, forward: Callable[[], object]) -> bool:
    """Let lazy layers find their sizes in one ``forward`` of ``model``; whether there were any.

    The weights are drawn with seed 0, so that the network can be built again. Raises
    :class:`ModelError` where the forward fails, or leaves layers without sizes.
    """
    lazy = _lazy(model)
    if not lazy:
        return False
    ordinary_(model)
    training = [module for module in model.modules() if module.training]
    try:
        with torch.random.fork_rng(), torch.inference_mode(False), torch.no_grad():
            torch.manual_seed(0)
            model.eval()
            forward()
    except Exception as error:  # the user's network may raise anything
        raise ModelError(
            f"{lazy[0]} is lazy, and the forward that would give it its size fails: "
            f"{one_line(error, 200)}; run the network once before it is handed over"
        ) from error
    finally:
        for module in training:
            module.training = True
    if left := _lazy(model):
        raise ModelError(
            f"{left[0]} is lazy, and the example inputs do not reach it; give inputs that do, or "
            "leave it out"
        )
    _state_inputs(model)
    return True


def _lazy(model: nn.Module) -> list[str]:
    """Names of lazy layers, those too that got their tensors from a file, but no sizes yet."""
    return [name for name, module in model.named_modules() if isinstance(module, LazyModuleMixin)]


def _state_inputs(model: nn.Module) -> None:
    """A lazy convolution whose weights come from a file does not ask for its number of inputs."""
    for module in model.modules():
        if isinstance(module, _ConvNd) and not module.in_channels:
            transposed = isinstance(module, _ConvTransposeNd)
            shape = module.weight.shape
            module.in_channels = shape[0] if transposed else shape[1] * module.groups


def _named(module: nn.Module, *, recurse: bool = True) -> list[tuple[str, Tensor]]:
    """All names of all tensors, those of one and the same tensor too."""
    parameters = module.named_parameters(recurse=recurse, remove_duplicate=False)
    return [*parameters, *module.named_buffers(recurse=recurse, remove_duplicate=False)]
