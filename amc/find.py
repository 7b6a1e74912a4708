"""From a model to its units: trace, group, rank, and prove each unit by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from amc.errors import ModelError, UnitError, VerificationError
from amc.grouping import group
from amc.importance import score
from amc.slim import slice_model
from amc.trace import named_tensors, trace
from amc.twin import verify
from amc.units import Units


def read_units(model: nn.Module, example_inputs: Any) -> Units:
    """The units that one traced forward shows, neither ranked nor verified.

    Enough for applying a plan, which names its channels and is verified as a whole. Raises
    :class:`ModelError` where the forward fails or a weight is not finite.
    """
    _check_finite(model)
    return group(
        trace(model, example_inputs),
        {name: tuple(parameter.shape) for name, parameter in model.named_parameters()},
        {name: tuple(buffer.shape) for name, buffer in model.named_buffers()},
    )


def find_units(
    model: nn.Module,
    example_inputs: Any,
    *,
    importance: str = "contribution",
    min_keep: float = 0.0,
    min_width: int = 1,
    round_to: int | Mapping[str, int] = 1,
    exclude: Sequence[str] = (),
    gentle_ends: bool = False,
    on_unit: Callable[[int, int], None] | None = None,
) -> Units:
    """The prunable units of ``model``, each verified alone; ``.frozen`` says what is left and why.

    ``example_inputs`` is a tensor or a tuple of positional arguments. ``min_keep``, ``round_to``
    and ``exclude`` bound the kept widths (:meth:`Units.limited`). ``on_unit(done, total)`` reports
    progress. The model is unchanged afterwards. Raises :class:`ModelError` where the forward fails
    or a weight is not finite, and :class:`UnitError` where nothing can be pruned.
    """
    units = read_units(model, example_inputs)
    units = units.ranked(score(model, units, importance))
    units = _sound(model, units, example_inputs, on_unit)
    units = units.limited(min_keep, round_to, exclude, min_width=min_width, gentle_ends=gentle_ends)
    if not units:
        reasons = sorted({frozen.reason for frozen in units.frozen})
        raise UnitError(f"nothing can be pruned in this model: {'; '.join(reasons) or 'no layers'}")
    return units


def _check_finite(model: nn.Module) -> None:
    for name, tensor in named_tensors(model):
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError(f"{name} holds NaN or infinite values; load sound weights")


def _sound(
    model: nn.Module,
    units: Units,
    example_inputs: Any,
    on_unit: Callable[[int, int], None] | None,
) -> Units:
    """The units that agree with their masked twin; the others frozen, with what went wrong.

    All units are proven together, each at an odd width of its own; where that fails, by halves,
    down to the unit that is to blame.
    """
    rng = np.random.default_rng(0)
    trial = [_odd(unit.width, rng) for unit in units]
    failures: dict[str, str] = {}
    done = 0

    def prove(proven: list[int], candidates: list[int]) -> list[int]:
        nonlocal done
        chosen = {*proven, *candidates}
        widths = [trial[n] if n in chosen else unit.width for n, unit in enumerate(units)]
        try:
            verify(model, slice_model(model, units, widths), units, widths, example_inputs)
        except VerificationError as error:
            if len(candidates) > 1:
                half = len(candidates) // 2
                first = prove(proven, candidates[:half])
                return first + prove(proven + first, candidates[half:])
            failures[units[candidates[0]].name] = str(error)
            candidates = []
            done += 1
        else:
            done += len(candidates)
        if on_unit is not None:
            on_unit(done, len(units))
        return candidates

    if units:
        prove([], list(range(len(units))))
    return units.without(failures)


def _odd(width: int, rng: np.random.Generator) -> int:
    """Between a third and three quarters of ``width``; odd, as code may count on even halves."""
    low, high = max(1, width // 3), max(1, width * 3 // 4)
    return min(int(rng.integers(low, high + 1)) | 1, max(1, width - 1))
