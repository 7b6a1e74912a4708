"""Networks that are not quite there yet: lazy layers, tensors that inference mode has made."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
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
                if is_lazy(tensor) or not tensor.is_inference():
                    continue
                if id(tensor) not in made:
                    copied = tensor.detach().clone()
                    is_parameter = isinstance(tensor, nn.Parameter)
                    made[id(tensor)] = (
                        nn.Parameter(copied, tensor.requires_grad) if is_parameter else copied
                    )
                setattr(module, name, made[id(tensor)])


def initialise_lazy_(model: nn.Module, forward: Callable[[], object]) -> bool:
    """Let lazy layers find their sizes in one ``forward`` of ``model``; whether there were any.

    The weights are drawn with seed 0, so that the network can be built again. Raises
    :class:`ModelError` where the forward fails, or leaves layers without sizes.
    """
    if not _lazy(model):
        return False
    training = [module for module in model.modules() if module.training]
    try:
        with torch.random.fork_rng(), torch.inference_mode(False), torch.no_grad():
            torch.manual_seed(0)
            model.eval()
            forward()
    except Exception as error:  # the user's network may raise anything
        raise ModelError(
            f"{_lazy(model)[0]} is lazy, and the forward that would give it its size fails: "
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
    return True


def check_usable(model: nn.Module) -> None:
    """Raise :class:`ModelError` for what is no network with weights of its own any more: exported,
    frozen, quantised."""
    kind = type(model).__name__
    flags = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    try:
        model.eval()
    except Exception as error:  # exported programs refuse, frozen scripts have no such method
        raise ModelError(
            f"{kind}: it has no evaluation mode ({one_line(error, 80)}); hand over the module that "
            "it was made of"
        ) from error
    finally:
        for module, training in flags:
            module.training = training
    if next(model.parameters(), None) is None:
        raise ModelError(
            f"{kind}: it has no parameters (quantised or frozen networks have none); hand over the "
            "module that it was made of"
        )


def _lazy(model: nn.Module) -> list[str]:
    return [name for name, tensor in _named(model) if is_lazy(tensor)]


def _named(module: nn.Module, *, recurse: bool = True) -> list[tuple[str, Tensor]]:
    """All names of all tensors, those of one and the same tensor too."""
    parameters = module.named_parameters(recurse=recurse, remove_duplicate=False)
    return [*parameters, *module.named_buffers(recurse=recurse, remove_duplicate=False)]
