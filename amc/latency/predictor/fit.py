"""Measure a network's layers and some of its plans, and make a latency model of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import nn

from amc.latency.backends import Backend
from amc.latency.measurement import quickest
from amc.latency.predictor.interpolation import Axis, cross, diagonal
from amc.latency.predictor.layers import LayerShape, TimedLayer, timed_layers
from amc.latency.predictor.model import LatencyModel, LayerTable
from amc.latency.predictor.store import LayerTimes
from amc.pruning.slicing.failures import explained
from amc.pruning.slicing.slice import slice_model
from amc.tracing.units import Unit, Units

CALIBRATION = 24
"""Whole networks that are measured: the dense one, and plans that keep a tenth to all."""
DENSE_COPIES = 5
_PRIOR_STD = (0.5, 2e-3, 10.0)
"""How far the coefficients may be from those of a mere sum of layers: from 1 for the layers' times,
from 0 for each element, and from 0 for each layer, which alone pays for a call of its own."""
_ALIGNED = 8
_REWEIGHTINGS = 10
_NOISE = 0.02
"""Relative error of a measurement."""


def fit_latency_model(
    model: nn.Module,
    example_inputs: Any,
    units: Units,
    runtime: Backend,
    times: LayerTimes,
    *,
    seed: int = 0,
    on_stage: Callable[[str, int, int], None] = lambda *_: None,
) -> LatencyModel:
    """The latency model of ``model`` on ``runtime``, at the batch of ``example_inputs``.

    ``on_stage(what, done, total)`` reports progress. Raises :class:`~amc.errors.ModelError` where
    the runtime cannot run the network.
    """
    layers, tables = layer_tables(model, example_inputs, units, times, on_stage)
    dense, *others = calibration_plans(units, CALIBRATION, seed)
    # The dense network several times: bounds are fractions of what it takes.
    us = measure_plans(
        model,
        example_inputs,
        units,
        runtime,
        [*[dense] * DENSE_COPIES, *others],
        lambda done, total: on_stage("whole networks", done, total),
    )
    dense_us = np.median(us[:DENSE_COPIES])
    us = np.append(dense_us, us[DENSE_COPIES:])
    return calibrated(layers, tables, np.array([dense, *others]), us)


def layer_tables(
    model: nn.Module,
    example_inputs: Any,
    units: Units,
    times: LayerTimes,
    on_stage: Callable[[str, int, int], None] = lambda *_: None,
) -> tuple[list[TimedLayer], list[LayerTable]]:
    """The layers of the network, and each one's table over the sizes that ``units`` leave it."""
    layers = timed_layers(model, example_inputs, units)
    known: dict[Any, LayerTable] = {}
    tables = []
    for number, layer in enumerate(layers):
        on_stage("layers", number, len(layers))
        inputs, outputs = sizes(layer.in_form, units), sizes(layer.out_form, units)
        key = (layer.shape, tuple(inputs), tuple(outputs))
        if key not in known:
            known[key] = measure_table(layer.shape, inputs, outputs, times)
        tables.append(known[key])
    on_stage("layers", len(layers), len(layers))
    return layers, tables


def measure_table(
    shape: LayerShape, inputs: Sequence[int], outputs: Sequence[int], times: LayerTimes
) -> LayerTable:
    """The times of a layer over all sizes that its channels may take."""
    rows, columns = Axis(inputs), Axis(outputs)

    def measure(pairs: Sequence[tuple[int, int]]) -> list[float]:
        return times.times(shape, pairs)

    us = diagonal(rows, measure) if shape.groups == 0 else cross(rows, columns, measure)
    return LayerTable(rows.sizes, columns.sizes, us)


def measure_plans(
    model: nn.Module,
    example_inputs: Any,
    units: Units,
    runtime: Backend,
    plans: Sequence[Sequence[int]],
    on_plan: Callable[[int, int], None] = lambda *_: None,
) -> np.ndarray:
    """(plans,) microseconds of the sliced networks, undisturbed."""
    forwards = []
    for number, widths in enumerate(plans):
        on_plan(number, len(plans))
        small = slice_model(model, units, widths)
        with explained(small, example_inputs):
            forwards.append(runtime.load(small, example_inputs))
    # In turns, over and over: what disturbs the machine for seconds does not meet the same twice.
    seconds = quickest(forwards, runtime.time, rounds=12, seconds=0.01)
    on_plan(len(plans), len(plans))
    return 1e6 * np.array(seconds)


def sizes(form: Sequence[int], units: Units) -> list[int]:
    """What an affine function of the widths can be, but 0: a layer that is gone takes no time."""
    *slopes, constant = form
    moving = [(slope, unit) for slope, unit in zip(slopes, units, strict=True) if slope]
    if len(moving) == 1:
        ((slope, unit),) = moving
        found = {constant + slope * width for width in unit.widths}
    else:
        low = constant + sum(slope * unit.widths[0] for slope, unit in moving)
        high = constant + sum(slope * unit.width for slope, unit in moving)
        found = set(range(low, high + 1))
    return sorted(found - {0})


def calibration_plans(units: Units, count: int, seed: int) -> list[tuple[int, ...]]:
    """The dense plan, and random ones from nearly all to a tenth of everything.

    Every other one is of multiples of 8, for which kernels have other paths.
    """
    generator = np.random.default_rng(seed)
    plans = [units.dense_widths]
    for number, most in enumerate(np.linspace(1.0, 0.2, count - 1)):
        keeps = most * generator.uniform(0.4, 1.0, len(units))
        step = _ALIGNED if number % 2 else 1
        plans.append(tuple(_nearest(u, k, step) for u, k in zip(units, keeps, strict=True)))
    return plans


def _nearest(unit: Unit, keep: float, step: int) -> int:
    channels = [width * unit.granularity for width in unit.widths]
    on_grid = [w for w, n in zip(unit.widths, channels, strict=True) if n % step == 0]
    return min(on_grid or unit.widths, key=lambda width: abs(width - keep * unit.width))


def calibrated(
    layers: Sequence[TimedLayer],
    tables: Sequence[LayerTable],
    plans: np.ndarray,
    us: np.ndarray,
) -> LatencyModel:
    """The model that fits plans (n, units) which take ``us`` (n,) microseconds; the first is dense.

    Least squares of relative errors, with a normal prior on each coefficient.
    """
    raw = LatencyModel(layers, tables)
    features = raw.features(plans) / us[:, None]
    prior, std = np.array(raw.coefficients), np.array(_PRIOR_STD) * (1, 1, len(layers))
    weights = np.ones(len(us))
    for _ in range(_REWEIGHTINGS):
        system = np.concatenate([features * weights[:, None] / _NOISE, np.diag(1 / std)])
        aims = np.concatenate([weights / _NOISE, prior / std])
        found, *_ = np.linalg.lstsq(system, aims, rcond=None)
        # A forward that was disturbed in every round must not bend all others (Huber 1964).
        error = np.abs(features @ found - 1) / _NOISE
        weights = np.sqrt(1 / np.maximum(error, 1))
    return LatencyModel(layers, tables, found.tolist(), (tuple(plans[0].tolist()), float(us[0])))
