"""From a model to its units: trace, group, rank, and prove."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from amc.errors import ModelError, UnitError
from amc.modules.checks import check_evaluates, check_prunable
from amc.modules.completing import initialise_lazy_, ordinary_
from amc.modules.unwrapping import unwrapped
from amc.pruning.importance.score import score
from amc.pruning.slicing.attributes import follow_attributes
from amc.pruning.slicing.unit_checks import droppable, sound
from amc.task import Losses
from amc.tracing.grouping import group
from amc.tracing.inputs import Inputs, is_inexact
from amc.tracing.trace import named_tensors, trace
from amc.tracing.units import Units


def read_units(model: nn.Module, example_inputs: Any) -> Units:
    """The units that one traced forward shows, neither ranked nor verified.

    Enough for applying a plan, which names its channels and is verified as a whole. Raises
    :class:`ModelError` where the forward fails or a weight is not finite.
    """
    model, _ = unwrapped(model)
    check_evaluates(model)
    check_prunable(model)
    ordinary_(model)
    initialise_lazy_(model, lambda: Inputs.of(example_inputs, model).call(model))
    _check_finite(model)
    found = trace(model, example_inputs)
    units = group(
        found,
        {name: tuple(parameter.shape) for name, parameter in model.named_parameters()},
        {name: tuple(buffer.shape) for name, buffer in model.named_buffers()},
    )
    return follow_attributes(model, units, found.read)


def find_units(
    model: nn.Module,
    example_inputs: Any,
    *,
    importance: str = "contribution",
    calibration: Iterable[Any] = (),
    loss: Losses | None = None,
    seed: int = 0,
    min_keep: float = 0.0,
    min_width: int = 1,
    round_to: int | Mapping[str, int] = 1,
    exclude: Sequence[str] = (),
    gentle_ends: bool = False,
    allow_drop: bool = False,
    on_unit: Callable[[int, int], None] | None = None,
    traced: Units | None = None,
) -> Units:
    """The prunable units of ``model``, proven; ``.frozen`` says what is left alone and why.

    ``example_inputs`` are in any form of :class:`amc.Inputs`. ``importance`` names the
    criterion that ranks channels (:data:`amc.registry.IMPORTANCES`); ``calibration``, ``loss`` and
    ``seed`` are what it looks at beside the weights (:func:`amc.pruning.importance.score.score`).
    The other settings bound the kept widths (:class:`amc.bounds.Bounds`), and with ``allow_drop`` a
    unit inside a residual branch may also go altogether, which leaves its block with the shortcut.
    ``on_unit(done, total)`` reports progress. The model is unchanged afterwards. Raises
    :class:`ModelError` where the forward fails or a weight is not finite, :class:`UnitError` where
    nothing can be pruned, and :class:`ConfigError` for an unknown ``importance`` or one that lacks
    what it looks at.
    """
    model, _ = unwrapped(model)
    units = traced if traced is not None else read_units(model, example_inputs)
    scores = score(model, units, importance, calibration=calibration, loss=loss, seed=seed)
    units = units.ranked(scores)
    units = sound(model, units, example_inputs, on_unit)
    if allow_drop:
        units = droppable(model, units, example_inputs)
    units = units.limited(min_keep, round_to, exclude, min_width=min_width, gentle_ends=gentle_ends)
    if not units:
        reasons = sorted({frozen.reason for frozen in units.frozen})
        raise UnitError(f"nothing can be pruned in this model: {'; '.join(reasons) or 'no layers'}")
    return units


def _check_finite(model: nn.Module) -> None:
    for name, tensor in named_tensors(model):
        if is_inexact(tensor) and not torch.isfinite(tensor).all():
            raise ModelError(f"{name} holds NaN or infinite values; load sound weights")
