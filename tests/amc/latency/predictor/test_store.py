"""Measured times on disk: used where they were measured, and nowhere else."""

from __future__ import annotations

import json

import pytest

from amc.errors import RunError
from amc.latency.predictor.layers import LayerShape
from amc.latency.predictor.store import LayerTimes
from tests.amc.latency.predictor.fake_backend import FakeRuntime, staircase

SHAPE = LayerShape("linear", (1,))
SIZES = [(4, 8), (5, 8), (4, 8), (40, 3)]
TIMES = pytest.approx([0.01 * staircase(i) * staircase(o) for i, o in SIZES])


@pytest.fixture
def runtime(monkeypatch):
    monkeypatch.setattr(FakeRuntime, "loaded", 0)
    return FakeRuntime()


def test_nothing_is_measured_twice(tmp_path, runtime):
    told = []
    times = LayerTimes(runtime, tmp_path, on_entry=told.append)
    assert times.times(SHAPE, SIZES) == TIMES
    assert (FakeRuntime.loaded, told) == (3, [3])
    again = LayerTimes(runtime, tmp_path)
    assert again.times(SHAPE, SIZES) == TIMES
    assert FakeRuntime.loaded == 3
    again.times(SHAPE, [(4, 9)])
    assert FakeRuntime.loaded == 4


def test_another_version_measures_anew_and_says_so(tmp_path, runtime, monkeypatch):
    LayerTimes(runtime, tmp_path).times(SHAPE, SIZES)
    monkeypatch.setattr(FakeRuntime, "number", "2")
    notes = []
    LayerTimes(FakeRuntime(), tmp_path, on_note=notes.append).times(SHAPE, SIZES)
    assert FakeRuntime.loaded == 6
    assert "measured anew" in notes[0]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_line_that_a_crash_has_cut_off(tmp_path, runtime):
    path = LayerTimes(runtime, tmp_path).path
    LayerTimes(runtime, tmp_path).times(SHAPE, SIZES)
    path.write_bytes(path.read_bytes()[:-10])
    LayerTimes(runtime, tmp_path).times(SHAPE, SIZES)
    assert FakeRuntime.loaded == 4
    assert LayerTimes(runtime, tmp_path).times(SHAPE, SIZES) == TIMES
    assert FakeRuntime.loaded == 4


@pytest.mark.parametrize("line", [0, 2])
def test_damaged_files(tmp_path, runtime, line):
    times = LayerTimes(runtime, tmp_path)
    times.times(SHAPE, SIZES)
    lines = times.path.read_text().splitlines()
    lines[line] = json.dumps({"layer": 3})
    times.path.write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match="remove the file"):
        LayerTimes(runtime, tmp_path)


def test_a_renamed_file_is_not_believed(tmp_path, runtime, monkeypatch):
    old = LayerTimes(runtime, tmp_path)
    old.times(SHAPE, SIZES)
    monkeypatch.setattr(FakeRuntime, "number", "2")
    new = LayerTimes(FakeRuntime(), tmp_path)
    old.path.rename(new.path)
    with pytest.raises(RunError, match="remove the file"):
        LayerTimes(FakeRuntime(), tmp_path)
