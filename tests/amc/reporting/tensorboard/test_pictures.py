from __future__ import annotations

import itertools
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from amc.records.episode import Episode
from amc.reporting.tensorboard import pictures
from amc.reporting.tensorboard.pictures import Pictures
from tests.fakes import fake_units

UNITS: Any = fake_units((16, 32))
PLAN = Episode(
    number=0,
    widths=(8, 16),
    proposed_keep=(0.5, 0.5),
    executed_keep=(0.5, 0.5),
    costs={"macs": 400, "params": 40},
    kept={"macs": 0.5, "params": 0.4},
    quality={"accuracy": 0.7},
    reward=0.0,
    seconds={},
)


class Writer:
    """Steps and figures by tag, instead of a file."""

    def __init__(self) -> None:
        self.drawn: dict[str, list[tuple[int, Figure]]] = defaultdict(list)

    def add_figure(self, tag: str, figure: Figure, step: int, close: bool) -> None:
        assert not close  # which would import pyplot
        self.drawn[tag].append((step, figure))

    def steps(self) -> dict[str, list[int]]:
        return {tag: [step for step, _ in drawn] for tag, drawn in self.drawn.items()}


def search(rewards: list[float], seconds: float) -> tuple[Writer, list[Episode]]:
    """Episodes of as many seconds each, watched to the end."""
    writer: Any = Writer()
    drawing, episodes, best = Pictures(UNITS, "macs"), [], PLAN
    for number, reward in enumerate(rewards, 1):
        phases = {"evaluate": 0.75 * seconds, "agent": 0.25 * seconds}
        episodes.append(
            replace(
                PLAN,
                number=number,
                reward=reward,
                seconds=phases,
                kept={"macs": 0.5, "params": 0.001 * number},
            )
        )
        if number == 1 or reward > best.reward:
            best = episodes[-1]
        drawing.update(writer, episodes, best)
    drawing.finish(writer, episodes, best)
    return writer, episodes


def test_plans_when_they_improve_and_all_episodes_now_and_then() -> None:
    rewards = [float(number in (2, 30)) + 0.01 * (number == 30) for number in range(1, 61)]
    writer, episodes = search(rewards, seconds=1000)
    assert writer.steps() == {
        "best/plan": [1, 2, 30],
        "episodes/reward": [25, 50, 60],
        "episodes/tradeoff": [25, 50, 60],
    }
    _, plan = writer.drawn["best/plan"][-1]
    assert plan.axes[0].get_title(loc="left") == "Episode 30: reward 1.01"
    _, progress = writer.drawn["episodes/reward"][1]
    assert list(progress.axes[0].lines[0].get_ydata()) == rewards[:50]
    _, tradeoff = writer.drawn["episodes/tradeoff"][1]
    # The budget holds all to the same MACs: beside them, the parameters tell plans apart.
    for name, axes in zip(("macs", "params"), tradeoff.axes, strict=False):
        (dots,) = [one for one in axes.collections if one.get_label() == "episode"]
        expected = [(episode.kept[name], 0.7) for episode in episodes[:50]]
        np.testing.assert_array_equal(dots.get_offsets(), expected)


def test_what_waited_is_drawn_at_the_end_and_once() -> None:
    writer, _ = search([float(number) for number in range(30)], seconds=0)
    assert writer.steps() == {
        "best/plan": [1, 30],
        "episodes/reward": [30],
        "episodes/tradeoff": [30],
    }
    writer, _ = search([0.0], seconds=0)
    assert writer.steps() == {"best/plan": [1], "episodes/reward": [1], "episodes/tradeoff": [1]}


def test_drawing_takes_a_hundredth_of_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = (0.2 * tick for tick in itertools.count())  # a drawing takes 0.2 s
    monkeypatch.setattr(pictures.time, "perf_counter", lambda: next(clock))
    drawings: list[float] = []

    def draw(self: Pictures, *arguments: Any) -> None:
        before = self._drawing_seconds
        original(self, *arguments)
        drawings.append(self._drawing_seconds - before)

    original = Pictures._draw
    monkeypatch.setattr(Pictures, "_draw", draw)
    search([float(number) for number in range(150)], seconds=0.9)  # each the best so far
    assert 0.5 * 1.35 < sum(drawings) <= 1.35
