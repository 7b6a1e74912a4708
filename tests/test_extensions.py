"""The five extensions of docs/architecture.md, each done once, by what the recipe names alone."""

from __future__ import annotations

import importlib
import importlib.metadata
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

import amc
from amc.comparison.settings import CompareConfig
from amc.config import LatencyConfig, SearchConfig
from amc.cost.budget import parse_budget
from amc.cost.quantities import COUNT, QUANTITIES, Quantity
from amc.errors import ConfigError
from amc.latency.backends import make_backend
from amc.latency.backends.base import Backend
from amc.pruning.plan import Plan
from amc.records.episode import read_episodes
from amc.registry import AGENTS, BACKENDS, IMPORTANCES, REWARDS
from amc.utils.registry import Registry
from tests.tiny import distance_task

SEARCHER = '''
"""Nothing but what a user would write."""

class Thirds:
    """Keeps about a third more of each unit than the one before."""

    policy = None

    def __init__(self, problem, seed=0, settings=None, start=None):
        self.problem = problem
        self.left = 3

    def ask(self, count):
        count, self.left = min(count, self.left), self.left - min(count, self.left)
        keeps = [1.3 ** i / 10 for i in range(len(self.problem.units))]
        return [self.problem.decode(self.problem.encode(keeps)) for _ in range(count)]

    def tell(self, episodes):
        self.rewards = [episode.reward for episode in episodes]

    def diagnostics(self):
        return {"thirds/left": float(self.left)}
'''


@pytest.fixture(autouse=True)
def _tables_as_they_were(monkeypatch):
    for table in (AGENTS, BACKENDS, IMPORTANCES, REWARDS, QUANTITIES):
        monkeypatch.setattr(table, "_entries", dict(table._entries))


def task():
    return distance_task(
        nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(24, 3)
    )


def test_a_criterion_ranks_channels_by_its_name():
    @IMPORTANCES.register("position", "the last channels go first")
    def position(evidence):
        return [np.arange(unit.width, 0.0, -1.0) for unit in evidence.units]

    result = amc.search(task(), "flops=0.5", agent="uniform", importance="position")
    for unit in result.plan.units:
        assert unit.kept == tuple(range(len(unit.kept)))
    with pytest.raises(ConfigError, match="entropy, taylor, random, position"):
        SearchConfig.parse({"importance": "positions"})


@pytest.mark.parametrize("where", ["registered", "file"])
def test_a_searcher_of_somebody_else_searches_and_compares(where, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(SEARCHER)
    name = f"{file}:Thirds"
    if where == "registered":
        names: dict[str, Any] = {}
        exec(SEARCHER, names)
        AGENTS.register("thirds", "a third more each time", seeded=False)(names["Thirds"])
        name = "thirds"
    result = amc.search(task(), "flops=0.5", agent=name, episodes=10, run=tmp_path / "run")
    assert len(result.history) == 3
    assert result.plan.kept["macs"] <= 0.5
    assert amc.search(task(), run=tmp_path / "run", resume=True).history == result.history
    config = CompareConfig.parse(
        {"agents": (name, "uniform"), "search": SearchConfig(budget={"macs": 0.5})}
    )
    assert config.job(name, 1).agent == name


def test_a_backend_measures_by_its_name():
    @BACKENDS.register("counting", "counts forwards")
    class Counting(Backend):
        name, title = "counting", "a counter"
        calls: ClassVar[list[int]] = []

        @classmethod
        def missing(cls):
            return None

        @property
        def version(self):
            return "1"

        def _load(self, *_):
            return lambda: self.calls.append(1)

    config = LatencyConfig.parse({"backend": "counting"})
    backend = make_backend(config.backend)
    backend.time(backend.load(nn.Linear(2, 2), (torch.zeros(1, 2),)))
    assert Counting.calls == [1]


def test_a_quantity_is_bounded_recorded_and_reported(tmp_path):
    # Bytes of the weights in half precision: by hand, two for each parameter.
    QUANTITIES.add(
        "half_bytes",
        "bytes in half precision",
        Quantity(
            name="half_bytes",
            word="bytes in half precision",
            aliases=("half",),
            measure=COUNT,
            grows_with_widths=True,
            formula=lambda table: table.sum_of_products(
                (name, tuple(range(len(shape))), 2)
                for name, shape in table.units.parameters.items()
            ),
        ),
    )
    assert parse_budget("half=0.5") == {"half_bytes": 0.5}
    result = amc.search(
        task(), "half=0.5", agent="random", episodes=3, seed=0, run=tmp_path / "run"
    )
    for episode in read_episodes(tmp_path / "run" / "episodes.jsonl"):
        assert episode.costs["half_bytes"] == 2 * episode.costs["params"]
        assert 0.4 < episode.kept["half_bytes"] <= 0.5
    plan = Plan.load(tmp_path / "run" / "plan.json")
    assert plan == result.plan
    assert plan.costs["half_bytes"] == 2 * plan.costs["params"]


def test_a_reward_is_what_a_search_climbs():
    @dataclass(frozen=True)
    class Narrow:
        target_loss: ClassVar[None] = None

        def loss(self, _, kept):
            return kept["params"]

        def __call__(self, _, kept):
            return -kept["params"]

    REWARDS.register("narrow", "minus the parameters", cost="params")(Narrow)
    result = amc.search(task(), agent="random", reward="narrow", episodes=4, seed=0)
    assert result.best.reward == -min(episode.costs["params"] for episode in result.history)


def test_other_distributions_name_theirs_in_entry_points(monkeypatch):
    class Point:
        name, value = "theirs", "their_package:Theirs"

        @staticmethod
        def load():
            class Theirs:
                """Searches as they like."""

                seeded = False

            return Theirs

    monkeypatch.setattr(
        "amc.utils.registry.entry_points",
        lambda group: [Point] if group == "test.things" else importlib.metadata.EntryPoints(),
    )
    table: Registry[Any] = Registry("thing", "test.things", seeded=True)
    table.add("ours", "ours", "amc.errors:AMCError")
    assert table.names() == ("ours", "theirs")
    entry = table.entry("theirs")
    assert (entry.summary, entry.traits) == ("Searches as they like.", {"seeded": False})
    with pytest.raises(ConfigError, match=r"thing 'their' is unknown \(did you mean theirs\?\)"):
        table.entry("their")
    with pytest.raises(ConfigError, match="thing 'ours' is there already"):
        table.add("ours", "again", "amc.errors:AMCError")
    with pytest.raises(ConfigError, match="has no trait fast"):
        table.add("new", "new", "amc.errors:AMCError", fast=True)


@pytest.mark.parametrize("table", [AGENTS, IMPORTANCES, REWARDS, BACKENDS, QUANTITIES])
def test_every_entry_is_there_and_says_what_it_does(table):
    for entry in table:
        assert entry.load() is not None
        assert len(entry.summary) > 2
        settings = entry.traits.get("settings")
        if settings is not None:
            module, _, name = settings.partition(":")
            assert getattr(importlib.import_module(module), name)
