"""The multiple of channels that a device computes in blocks of."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import nn

from amc.timing.layers import LayerShape, run_layers
from amc.timing.store import LayerTimes

MULTIPLES = (1, 2, 4, 8, 16, 32)
_LAYERS = 3
_WINDOW = 64
_WORTH = 0.98
"""A coarser grid must take less than this of a finer one's time."""


def best_multiple(model: nn.Module, example_inputs: Any, times: LayerTimes) -> int:
    """Of how many channels widths should be multiples, so that no block is paid for in part.

    The heaviest layers are measured at square sizes from half of their width on. Of the multiples,
    the one is best at whose sizes a multiply-accumulate takes the least time; a coarser one must
    be clearly better, as it leaves fewer plans, and no coarser than a quarter of these layers.
    """
    heaviest = _heaviest(model, example_inputs)
    coarsest = min((width for _, width in heaviest), default=0) / 4
    per_mac = {multiple: [] for multiple in MULTIPLES}  # type: dict[int, list[float]]
    for shape, width in heaviest:
        sizes = np.arange(width // 2, min(width, width // 2 + _WINDOW) + 1)
        sizes = sizes[sizes > 0]
        us = np.array(times.times(shape, [(int(n), int(n)) for n in sizes]))
        for multiple in MULTIPLES:
            on = sizes % multiple == 0
            if on.any():
                per_mac[multiple].append(float((us[on] / sizes[on] ** 2.0).mean() / us.max()))
    # Only what all layers were measured at compares.
    cost = {m: sum(found) for m, found in per_mac.items() if len(found) == len(per_mac[1])}
    best = 1
    for multiple, total in cost.items():
        if multiple <= coarsest and total < _WORTH * cost[best]:
            best = multiple
    return best


def _heaviest(model: nn.Module, example_inputs: Any) -> list[tuple[LayerShape, int]]:
    """The dense layers, no two of one shape, of most multiply-accumulates, and their width."""
    found: dict[LayerShape, tuple[float, int]] = {}
    for layer in run_layers(model, example_inputs):
        width = min(layer.inputs, layer.outputs)
        if layer.shape.groups != 1 or width < MULTIPLES[-1] // 2:
            continue
        macs = layer.shape.positions * layer.inputs * layer.outputs * np.prod(layer.shape.kernel)
        found[layer.shape] = max(found.get(layer.shape, (0.0, 0)), (float(macs), width))
    ranked = sorted(found.items(), key=lambda item: -item[1][0])
    return [(shape, width) for shape, (_, width) in ranked[:_LAYERS]]
