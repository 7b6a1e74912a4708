"""Predicted latency, against a runtime whose clock is a formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from amc.cost.table import CostTable
from amc.errors import RunError
from amc.latency.predictor.fit import (
    calibrated,
    calibration_plans,
    fit_latency_model,
    measure_plans,
)
from amc.latency.predictor.layers import timed_layers
from amc.latency.predictor.model import LatencyModel
from amc.latency.predictor.store import LayerTimes
from amc.pruning.find_units import read_units
from tests.amc.latency.predictor.fake_backend import FakeRuntime
from tests.tiny import INPUTS, tiny_network

WIDE = torch.zeros(1, 40, 2, 2)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A latency model, and what it is of."""
    model, x, runtime = tiny_network(), torch.zeros(INPUTS), FakeRuntime()
    units = read_units(model, x)
    times = LayerTimes(runtime, tmp_path_factory.mktemp("times"))
    stages = []
    found = fit_latency_model(model, x, units, runtime, times, on_stage=lambda *s: stages.append(s))
    assert stages[-1] == ("whole networks", 28, 28)
    return found, model, x, units, runtime


def test_every_plan_of_a_small_network(built):
    found, model, x, units, runtime = built
    grid = np.array(np.meshgrid(*(unit.widths for unit in units))).reshape(len(units), -1).T
    true = measure_plans(model, x, units, runtime, grid[::3].tolist())
    assert found(grid[::3]) == pytest.approx(true, rel=0.01)


def test_a_table_of_costs_with_latency(built):
    found, _, _, units, _ = built
    cost = CostTable(units, found)
    widths = [unit.widths[0] for unit in units]
    assert cost.quantities == ("macs", "params", "latency_us")
    assert cost.function("latency_us")(widths) == pytest.approx(float(found(np.array(widths))))
    assert cost.dense("latency_us") == pytest.approx(float(found(np.array(units.dense_widths))))


def test_a_saved_model_predicts_the_same(built, tmp_path):
    found, model, x, units, _ = built
    path = tmp_path / "latency.safetensors"
    found.save(path)
    plans = np.array(calibration_plans(units, 9, seed=3))
    again = LatencyModel.load(path, timed_layers(model, x, units))
    assert (again(plans) == found(plans)).all()
    other = timed_layers(model, torch.zeros(2, *INPUTS[1:]), units)
    with pytest.raises(RunError, match="another network"):
        LatencyModel.load(path, other)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="no sound latency model"):
        LatencyModel.load(path, timed_layers(model, x, units))


def test_whole_networks_decide_and_a_disturbed_one_does_not(built):
    found, _, _, units, _ = built
    plans = np.array(calibration_plans(units, 24, seed=1))
    features = found.features(plans)
    true = features @ np.array([0.9, 1e-3, -5.0])
    us = true.copy()
    us[[3, 11]] *= 1.9  # a forward that was disturbed in all of its turns
    tables = found._tables
    fitted = calibrated(found.layers, tables, plans, us)
    assert fitted(plans) == pytest.approx(true, rel=0.02)
    assert fitted(plans[0]) == us[0]


def test_layers_that_a_plan_removes_take_no_time(built):
    found, _, _, units, _ = built
    name = units[-1].name
    readers = [n for n, layer in enumerate(found.layers) if layer.in_form[-2] or layer.out_form[-2]]
    assert name in [found.layers[n].name for n in readers]
    gone = [*units.dense_widths[:-1], 0]
    times, elements = found._looked_up(np.array(gone))
    assert [n for n, us in enumerate(times) if us == 0] == readers
    assert elements[readers[0]] == 0  # its outputs are gone; what reads them still has its own


def test_every_other_whole_network_is_of_multiples_of_eight():
    wide = read_units(torch.nn.Sequential(*(torch.nn.Conv2d(40, 40, 1) for _ in range(5))), WIDE)
    dense, *plans = calibration_plans(wide, 24, seed=0)
    assert dense == wide.dense_widths
    assert all(width % 8 == 0 for plan in plans[1::2] for width in plan)
    assert any(width % 8 for plan in plans[::2] for width in plan)
