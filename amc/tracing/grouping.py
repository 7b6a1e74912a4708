"""Form units out of a trace: channels that are used alike can be removed alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from amc.tracing.ids import Use
from amc.tracing.rules import Layer
from amc.tracing.trace import Trace
from amc.tracing.units import Frozen, Slot, Unit, Units, freeze

Shapes = dict[str, tuple[int, ...]]

Indices = dict[int, np.ndarray]
"""Where one channel sits: for each use, by its number in the trace, the indices there."""


def group(trace: Trace, parameters: Shapes, buffers: Shapes) -> Units:
    """Form the units of a trace, given the shapes of the model's parameters and buffers.

    Channels with the same uses, equally often, form a unit; those of them that are frozen are
    reported apart.
    """
    producers: dict[str, Layer] = {}
    for layer in trace.layers:  # a shared layer stands at its first call
        producers.setdefault(layer.tensor, layer)
    position = {tensor: number for number, tensor in enumerate(producers)}
    units: list[Unit] = []
    frozen: list[Frozen] = []
    for numbers, channels in _alike(trace.uses):
        uses = [trace.uses[number] for number in numbers]
        outputs = [use for use in uses if use.purpose == "out" and use.tensor in producers]
        if not outputs:
            continue  # the network's input, or a parameter that meets no channel
        outputs.sort(key=lambda use: position[use.tensor])
        layers = tuple(producers[use.tensor] for use in outputs)
        kind = layers[0].kind if len(layers) == 1 else "stream"
        counts = [producers.get(use.tensor) for use in uses if use.purpose == "count"]
        if any(layer is not None and layer.kind == "product" for layer in counts):
            kind = "heads"
        for reason, members in _by_reason(channels, uses, trace).items():
            unit = _form(kind, layers, uses, [[rows[n] for n in numbers] for rows in members])
            if reason:
                frozen.append(freeze(unit, reason))
            else:
                units.append(unit)
    units.sort(key=lambda unit: position[unit.layers[0].tensor])
    return Units(
        _distinct(units),
        tuple(frozen),
        trace.layers,
        parameters,
        buffers,
        _counted(trace.uses),
        trace.uncounted,
    )


def _counted(uses: Sequence[Use]) -> Shapes:
    """Shapes of what is no tensor, as far as channels lie along their dimensions."""
    sizes: dict[str, dict[int, int]] = defaultdict(dict)
    for use in uses:
        if use.purpose in ("size", "count", "statistic"):
            sizes[use.tensor][use.dim] = len(use.ids)
    return {
        name: tuple(known.get(dim, 1) for dim in range(max(known) + 1))
        for name, known in sizes.items()
    }


def _alike(uses: Sequence[Use]) -> Iterator[tuple[list[int], dict[int, Indices]]]:
    """Sets of channels with the same uses: the uses' numbers, and each channel's indices."""
    channels: dict[int, Indices] = defaultdict(dict)
    for number, use in enumerate(uses):
        order = np.argsort(use.ids, kind="stable")
        present, starts = np.unique(use.ids[order], return_index=True)
        ends = [*starts[1:].tolist(), len(order)]
        for channel, start, end in zip(present.tolist(), starts.tolist(), ends, strict=True):
            if channel:
                channels[channel][number] = order[start:end]
    alike: dict[tuple[tuple[int, int], ...], dict[int, Indices]] = defaultdict(dict)
    for channel in sorted(channels):
        signature = tuple((number, len(index)) for number, index in channels[channel].items())
        alike[signature][channel] = channels[channel]
    for signature, members in alike.items():
        yield [number for number, _ in signature], members


def _by_reason(
    channels: dict[int, Indices], uses: list[Use], trace: Trace
) -> dict[str, list[Indices]]:
    """Channels by the reason to leave them alone; the empty reason: none."""
    whole = "" if any(use.purpose == "in" for use in uses) else "no layer reads it"
    reasons: dict[str, list[Indices]] = defaultdict(list)
    for channel, indices in channels.items():
        reasons[trace.frozen.get(channel, whole)].append(indices)
    free = [channel for channel in channels if not trace.frozen.get(channel, whole)]
    if len(free) == 1:
        reasons[_alone(free[0], channels[free[0]], trace)] = reasons.pop("")
    return reasons


def _alone(channel: int, indices: Indices, trace: Trace) -> str:
    """Why a unit would have one group only."""
    if channel in trace.ties:
        return f"its channels are mixed by {trace.ties[channel]}"
    made = {n: index for n, index in indices.items() if trace.uses[n].purpose == "out"}
    if all(len(index) == 1 < len(trace.uses[n].ids) for n, index in made.items()):
        return "no other channel of its layer is used in the same way"
    return "its channels all go together"


def _form(
    kind: str, layers: tuple[Layer, ...], uses: list[Use], groups: list[list[np.ndarray]]
) -> Unit:
    """The unit of ``groups``: for each of them its indices in each use."""
    slots = tuple(
        Slot(use.tensor, use.dim, use.purpose, np.stack(rows))
        for use, rows in zip(uses, zip(*groups, strict=True), strict=True)
    )
    return Unit(
        name=layers[0].name,
        kind=kind,
        width=len(groups),
        granularity=next(s.index.shape[1] for s in slots if s.tensor == layers[0].tensor),
        layers=layers,
        slots=slots,
        order=np.arange(len(groups)),
        scores=np.zeros(len(groups)),
    )


def _distinct(units: list[Unit]) -> tuple[Unit, ...]:
    """Units of one producer are told apart by a number: ``conv``, ``conv#2``, ..."""
    seen: dict[str, int] = defaultdict(int)
    named = []
    for unit in units:
        seen[unit.name] += 1
        number = seen[unit.name]
        named.append(unit if number == 1 else replace(unit, name=f"{unit.name}#{number}"))
    return tuple(named)
