"""Which units can be cut, by trying: sliced networks against their masked twins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import nn

from amc.errors import VerificationError
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify
from amc.tracing.units import Units


def sound(
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


def droppable(model: nn.Module, units: Units, example_inputs: Any) -> Units:
    """``units``, those marked that can go altogether: each is tried alone.

    It has to be all that its readers read, and these have to be added to what others produce.
    """
    streams = {s.tensor for u in units if u.kind == "stream" for s in u.slots if s.purpose == "out"}
    items = list(units)
    for number, unit in enumerate(units):
        readers = [slot for slot in unit.slots if slot.purpose == "in"]
        whole = all(slot.index.size == units.sizes[slot.tensor][slot.dim] for slot in readers)
        if unit.kind == "stream" or not whole or not {s.tensor for s in readers} <= streams:
            continue
        tried = replace(unit, droppable=True)
        trial = replace(units, items=(*items[:number], tried, *items[number + 1 :]))
        widths = [0 if n == number else u.width for n, u in enumerate(units)]
        try:
            verify(model, slice_model(model, trial, widths), trial, widths, example_inputs)
        except VerificationError:
            continue  # its code needs at least one channel
        items[number] = tried
    return replace(units, items=tuple(items))


def _odd(width: int, rng: np.random.Generator) -> int:
    """Between a third and three quarters of ``width``; odd, as code may count on even halves."""
    low, high = max(1, width // 3), max(1, width * 3 // 4)
    return min(int(rng.integers(low, high + 1)) | 1, max(1, width - 1))
