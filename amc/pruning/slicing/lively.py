"""Weights that let every mistake show, where a network's own do not.

A network as it was initialised hides mistakes: norms whose weights are all 1 do not show channels
in the wrong order, a layer scale of 1e-6 hides a whole branch, and BatchNorm whose statistics do
not fit drowns the signal in its shifts. The same structure with other weights does not, and whether
a slice is right does not depend on the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from amc.modules.copying import copy_model
from amc.tracing.inputs import Inputs, tensors_of
from amc.tracing.trace import unfused_attention

FAINT = 1e-2
"""Largest value of a parameter of one dimension that counts as none: layer scales start there."""


def is_dull(model: nn.Module) -> bool:
    """Whether some parameter, or statistic of a norm, is constant or faint."""
    norms = [m for m in model.modules() if isinstance(m, _NormBase)]
    statistics = [m.running_mean for m in norms] + [m.running_var for m in norms]
    return any(map(_dull, [*model.parameters(), *(x for x in statistics if x is not None)]))


def _dull(x: Tensor) -> bool:
    if not x.is_floating_point() or not x.numel():
        return False
    faint = x.numel() == max(x.shape, default=1) and float(x.detach().abs().max()) < FAINT
    return faint or (x.numel() > 1 and _is_constant(x))


def _is_constant(x: Tensor) -> bool:
    values = x.detach().flatten()
    return bool(values[0] == values[-1]) and bool((values == values[0]).all())


def lively_copy(model: nn.Module, inputs: Inputs, seed: int = 0) -> nn.Module | None:
    """A copy of ``model`` in evaluation mode, made lively on ``inputs``; the same for one seed.

    Copies of seeds above 0 differ in all layers, with biases around .5 instead of 0, so that a ReLU
    is dead in few of them. None where the network fails with such weights, or gives values that are
    not finite.
    """
    lively = copy_model(model).eval()
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.inference_mode(False):
            outputs = tensors_of(_enliven(lively, inputs, generator, fresh=seed > 0))
    except Exception:
        return None
    return lively if all(bool(x.isfinite().all()) for x in outputs) else None


def enliven_(model: nn.Module, inputs: Any, generator: torch.Generator) -> None:
    """Give biases, scales and shifts values of their own, and BatchNorm the ``inputs``' statistics.

    Every parameter that is one number is drawn anew: around 0 where that number is 0, around 1
    otherwise; a layer's weight of that kind as large as keeps a signal's size. So is every
    parameter of one dimension that is :data:`FAINT`, such as a layer scale. Matrices of a fixed
    small size, as transformers' begin at .02, are drawn larger: with them attention hardly chooses,
    and a mistake in a query would not show. ``inputs`` is a tensor or a tuple of positional
    arguments.
    """
    _enliven(model, Inputs.of(inputs, model), generator, fresh=False)


def _enliven(model: nn.Module, inputs: Inputs, generator: torch.Generator, *, fresh: bool) -> Any:
    """As :func:`enliven_`; ``fresh``: all layers drawn anew. Returns the outputs."""
    layers = [m for m in model.modules() if isinstance(m, _ConvNd | nn.Linear)]
    kernels = {id(m._parameters.get("weight")) for m in layers}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point() and parameter.numel():
                _redraw(name, parameter, id(parameter) in kernels, fresh, generator)
        with _fitted(model), unfused_attention():
            return inputs.call(model)


def _redraw(
    name: str, parameter: Tensor, kernel: bool, fresh: bool, generator: torch.Generator
) -> None:
    first = float(parameter.flatten()[0])
    constant = _is_constant(parameter)
    if kernel and parameter.numel() > 1 and (constant or fresh):
        _draw(parameter, parameter[0].numel() ** -0.5, generator)
    elif name.endswith("bias") or (constant and first == 0):
        middle = 0.5 if fresh else 0.0
        _draw_evenly(parameter, middle - 0.5, middle + 0.5, generator)
    elif constant or _dull(parameter):
        _draw_evenly(parameter, 0.5, 1.5, generator)
    elif parameter.dim() in (2, 3) and parameter.std() < 0.03:
        _draw(parameter, 1.5 * parameter.shape[-1] ** -0.5, generator)


def _draw_evenly(parameter: Tensor, low: float, high: float, generator: torch.Generator) -> None:
    # Drawn on the CPU, where the generator is.
    values = torch.empty(parameter.shape, dtype=parameter.dtype)
    parameter.copy_(values.uniform_(low, high, generator=generator))


def _draw(parameter: Tensor, deviation: float, generator: torch.Generator) -> None:
    values = torch.empty(parameter.shape, dtype=parameter.dtype)
    parameter.copy_(values.normal_(0, deviation, generator=generator))


@contextmanager
def _fitted(model: nn.Module) -> Iterator[None]:
    """In it, each norm with running statistics takes those of what it is given."""
    norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
    hooks = [norm.register_forward_pre_hook(_fit) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _fit(norm: Any, args: tuple[Any, ...]) -> None:
    x: Tensor = args[0].detach()
    channels = norm.running_mean.shape[0]
    place = 1 if x.dim() > 1 and x.shape[1] == channels else 0  # without a batch: InstanceNorm
    others = [d for d in range(x.dim()) if d != place]
    positions = x.numel() // max(1, channels)
    if positions > 1:
        variance, mean = torch.var_mean(x, others, correction=0)
    elif positions == 1:  # one value a channel: its distance from the mean must not become zero
        values = x.flatten()
        mean, variance = values / 2, (values.square() + values.square().mean()) / 2
    else:
        return
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(variance.clamp_min(1e-12))
