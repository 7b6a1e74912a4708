"""Searches for latency on a runtime whose clock is a formula: what is returned holds its bound."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from torch import nn

from amc.errors import BudgetError, ConfigError
from amc.pipeline.search import search
from amc.pruning.slicing.slice import slice_model
from amc.records.episode import read_episodes
from amc.records.results import Confirmation
from amc.records.run_folder import RunFolder
from amc.registry import BACKENDS
from tests.amc.latency.predictor.fake_backend import FakeRuntime
from tests.fakes import registered
from tests.tiny import distance_task


def tiny_task():
    """Two convolutions and a hidden layer, of 8, 12 and 10 channels."""
    return distance_task(
        nn.Conv2d(2, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 10),
        nn.ReLU(),
        nn.Linear(10, 3),
    )


class Moody(FakeRuntime):
    """Whole networks of fewer channels take longer than their layers alone would."""

    name = "moody"
    surcharge = 0.0
    """Of what was removed, as soon as it is set: the latency model was measured without it."""

    def _load(self, model, inputs):
        plain, channels = super()._load(model, inputs), sum(len(p) for p in model.parameters())
        dense = sum(len(p) for p in tiny_task().model.parameters())
        return lambda: plain() * (1 + self.surcharge * (1 - channels / dense))


@pytest.fixture(autouse=True)
def runtimes(monkeypatch, tmp_path):
    monkeypatch.setenv("AMC_CACHE", str(tmp_path / "cache"))
    for runtime in (FakeRuntime, Moody):
        registered(monkeypatch, BACKENDS, runtime.name, runtime)


def measured(task, units, widths, runtime=FakeRuntime):
    runtime = runtime()
    forward = runtime.load(slice_model(task.model, units, widths), (task.example_inputs,))
    return runtime.time(forward)[0]


def settings(backend="fake", **others):
    return {"latency": {"backend": backend}, "episodes": 12, "seed": 1, **others}


def test_the_plan_of_a_search_holds_by_measurement(tmp_path):
    task, notes = tiny_task(), []
    run = tmp_path / "run"
    result = search(task, "latency=0.6", run=run, on_note=notes.append, **settings())
    dense = measured(task, result.units, result.units.dense_widths)
    kept = measured(task, result.units, result.plan.widths()) / dense
    assert kept <= 0.6
    assert notes == []  # nothing was tightened
    folder = RunFolder(run)
    saved = Confirmation.model_validate_json(folder.confirmation.read_text())
    assert saved == result.confirmation
    assert saved.timed[-1].widths == result.plan.widths()
    assert saved.timed[-1].measured_us / saved.timed[-1].dense_us == pytest.approx(kept)
    assert result.plan.costs["latency_us"] == pytest.approx(1e6 * dense * kept, rel=0.02)
    for episode in read_episodes(folder.episodes):
        assert episode.kept["latency_us"] <= 0.6
        true = measured(task, result.units, episode.widths)
        assert episode.costs["latency_us"] == pytest.approx(1e6 * true, rel=0.02)


def test_it_finds_the_best_plan_of_a_staircase():
    """On stairs of four channels the MACs are no guide: of all plans that are fast enough."""
    task = tiny_task()
    result = search(task, "latency=0.6", **settings(episodes=40))
    units = result.units
    dense = measured(task, units, units.dense_widths)
    worth = {}
    for widths in itertools.product(*(unit.widths for unit in units)):
        if measured(task, units, widths) <= 0.6 * dense:
            worth[widths] = task.evaluate(slice_model(task.model, units, widths))["kl"]
    ranked = sorted(worth.values())
    assert -result.best.reward <= ranked[len(ranked) // 50]
    by_macs = search(task, "flops=0.6", **settings(episodes=1, agent="uniform"))
    assert measured(task, units, by_macs.plan.widths()) > 0.6 * dense


def test_a_resumed_search_measures_no_layer_again(tmp_path, monkeypatch):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    search(tiny_task(), "latency=0.6", run=whole, **settings())
    search(tiny_task(), "latency=0.6", run=cut, **settings(episodes=7))
    monkeypatch.setenv("AMC_CACHE", str(tmp_path / "lost"))
    monkeypatch.setattr(FakeRuntime, "number", "2")  # another version, since
    search(tiny_task(), run=cut, resume=True, episodes=12)
    timeless = [
        [{k: v for k, v in e.to_json().items() if k != "seconds"} for e in read_episodes(path)]
        for path in (RunFolder(whole).episodes, RunFolder(cut).episodes)
    ]
    assert timeless[0] == timeless[1]
    assert not (tmp_path / "lost").exists()


def test_plans_that_miss_are_tightened(monkeypatch, tmp_path):
    task, notes = tiny_task(), []
    played = []

    def late(episode, _):
        played.append(episode)
        monkeypatch.setattr(Moody, "surcharge", 3.0)

    result = search(
        task,
        "latency=0.6",
        run=tmp_path / "run",
        on_episode=late,
        on_note=notes.append,
        **settings("moody"),
    )
    dense = measured(task, result.units, result.units.dense_widths, Moody)
    assert measured(task, result.units, result.plan.widths(), Moody) <= 0.6 * dense
    assert "planned for" in notes[0]
    timed, (factor, *_) = result.confirmation.timed, result.confirmation.tightened
    first = [t for t in timed if t.predicted_us > factor * 0.6 * t.dense_us]  # of the first round
    quickest = min(t.measured_us / t.dense_us for t in first)
    assert factor == pytest.approx(0.995 * 0.6 / quickest)
    assert not result.confirmation.timed[0].holds
    assert result.best.number > len(played)
    assert result.plan.quality == result.best.quality
    assert len(read_episodes(RunFolder(tmp_path / "run").episodes)) == len(played)


def test_a_bound_that_is_never_held(monkeypatch):
    def late(*_):
        monkeypatch.setattr(Moody, "surcharge", 30.0)

    with pytest.raises(BudgetError, match="not held by measurement"):
        search(
            tiny_task(),
            "latency=0.6",
            on_episode=late,
            on_note=lambda _: None,
            **settings("moody"),
        )


@pytest.mark.parametrize("budget", ["latency=0.6 flops=0.5", "params=0.7 latency=0.8"])
def test_latency_beside_other_bounds(budget):
    result = search(tiny_task(), budget, **settings())
    kept = result.plan.kept
    for part in budget.split():
        name, _, most = part.partition("=")
        assert kept[{"flops": "macs", "latency": "latency_us"}.get(name, name)] <= float(most)


def test_microseconds_ranges_floors_and_rewards():
    task = tiny_task()
    dense = search(task, "latency=1.0", **settings(episodes=1)).plan.dense_costs["latency_us"]
    absolute = search(task, f"latency={round(0.6 * dense)}us", **settings())
    assert absolute.plan.costs["latency_us"] <= 0.6 * dense
    ranged = search(task, "latency=0.55:0.9", **settings())
    assert len({e.budget["latency_us"] for e in ranged.history}) > 4
    assert ranged.front.within({"latency_us": 0.7}).kept["latency_us"] <= 0.7
    floor = search(task, min_accuracy=0.9, minimise="latency_us", **settings())
    assert floor.best.quality["accuracy"] >= 0.9
    assert floor.best.kept["latency_us"] < 1
    free = search(task, reward="amc-latency", agent="random", **settings())
    for episode in free.history:
        error = 1 - episode.quality["accuracy"]
        assert episode.reward == pytest.approx(-error * np.log(episode.costs["latency_us"]))


def test_widths_that_the_device_likes(tmp_path):
    model = tiny_task()
    run = tmp_path / "run"
    result = search(model, "latency=0.7", run=run, align=True, **settings())
    config = RunFolder(run).load_config()
    assert not config.align  # what was found is recorded, for those who resume
    assert all(unit.multiple == config.round_to["all"] for unit in result.units)


@pytest.mark.parametrize(
    ("budget", "kept"),
    [("latency=0.7", (0.7, 0.7)), ("latency=0.5:0.9", (0.5, 0.9)), ("latency=0.9ms", (0.6, 0.6))],
)
def test_grids_are_compared_at_the_latency_that_is_asked_for(monkeypatch, budget, kept):
    seen = []

    def asked(units, _, kept_latency):
        seen.append((len(units), kept_latency))
        return 2

    monkeypatch.setattr("amc.pipeline.setup.best_multiple", asked)
    result = search(tiny_task(), budget, align=True, **settings(episodes=1))
    assert seen == [(3, kept)]
    assert all(width % 2 == 0 for width in result.best.widths)


def test_bad_budgets_and_backends():
    with pytest.raises(BudgetError, match=r"latency ≤ .*least achievable"):
        search(tiny_task(), "latency=0.05", **settings())
    with pytest.raises(ConfigError, match="of what"):
        search(tiny_task(), "latency=12", **settings())
    with pytest.raises(ConfigError, match="backend 'nowhere' is unknown; choose from onnx"):
        search(tiny_task(), "latency=0.5", **settings("nowhere"))
    with pytest.raises(ConfigError, match="only a search for latency"):
        search(tiny_task(), "flops=0.5", align=True, **settings())


def test_a_confirmation_reads_as_it_was_written(tmp_path):
    result = search(tiny_task(), "latency=0.6", **settings(episodes=2))
    path = tmp_path / "latency.json"
    result.confirmation.save(path)
    assert Confirmation.model_validate(json.loads(path.read_text())) == result.confirmation
    assert "measured" in str(result.confirmation)
