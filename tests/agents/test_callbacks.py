from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from amc.agents.callbacks import JsonlRecorder, TensorBoardMonitor
from amc.envs.pruning import Episode
from tests.fakes import fake_env, rollout


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    env, generator = fake_env(), np.random.default_rng(0)
    return [
        Episode.from_json(rollout(env, generator.uniform(-1, 1, 9))[2]["plan"]) for _ in range(6)
    ]


@pytest.fixture
def events(tmp_path: Path, episodes: list[Episode]) -> Iterator[EventAccumulator]:
    values = iter(range(100))
    monitor = TensorBoardMonitor(
        tmp_path,
        fake_env().units,
        lambda: {"exploration/std": float(next(values))},
        {"seed": 3, "preset": "default", "rank": True},
    )
    for episode in episodes:
        monitor(episode)
    monitor.close()
    assert [p.is_file() for p in tmp_path.iterdir()] == [True]  # one event file, no sub-folder
    accumulator = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "tensors": 0})
    return accumulator.Reload()


def test_scalars(events: EventAccumulator, episodes: list[Episode]) -> None:
    def read(tag: str) -> list[float]:
        points = events.Scalars(tag)
        assert [point.step for point in points] == [episode.number for episode in episodes]
        return [point.value for point in points]

    rewards = [episode.reward for episode in episodes]
    assert read("reward/episode") == pytest.approx(rewards)
    average = [rewards[0]]
    for reward in rewards[1:]:
        average.append(0.9 * average[-1] + 0.1 * reward)
    assert read("reward/moving_average") == pytest.approx(average)
    best = [max(range(i + 1), key=rewards.__getitem__) for i in range(6)]
    assert read("best/reward") == pytest.approx([rewards[i] for i in best])
    assert read("best/accuracy") == pytest.approx([episodes[i].quality["accuracy"] for i in best])
    for name in ("accuracy", "kl", "cross_entropy"):
        assert read(f"quality/{name}") == pytest.approx([e.quality[name] for e in episodes])
    assert read("cost/kept_macs") == pytest.approx([e.kept_macs for e in episodes])
    assert read("cost/kept_params") == pytest.approx([e.kept_params for e in episodes])
    assert read("seconds/evaluate") == pytest.approx([e.seconds["evaluate"] for e in episodes])
    assert read("keep/conv4") == pytest.approx([e.executed_keep[4] for e in episodes])
    assert read("exploration/std") == [0, 1, 2, 3, 4, 5]


def test_best_plan_is_drawn_when_it_improves(
    events: EventAccumulator, episodes: list[Episode]
) -> None:
    rewards = [episode.reward for episode in episodes]
    improved = [e.number for i, e in enumerate(episodes) if rewards[i] > max([-9e9, *rewards[:i]])]
    assert [image.step for image in events.Images("best/plan")] == improved
    assert events.Images("best/plan")[0].encoded_image_string.startswith(b"\x89PNG")
    texts = events.Tensors("best/plan/text_summary")
    assert [text.step for text in texts] == improved
    table = texts[-1].tensor_proto.string_val[0].decode()
    assert f"reward {max(rewards):.4f}" in table
    plan = episodes[improved[-1] - 1]
    assert f"| conv8 | 64 | {plan.widths[8]} | {plan.executed_keep[8]:.2f} |" in table


def test_hyperparameters(events: EventAccumulator) -> None:
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    for name in (b"seed", b"preset", b"rank"):
        assert name in content


def test_jsonl_is_readable_while_it_grows(episodes: list[Episode], tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    for part in (episodes[:2], episodes[2:4]):  # a second recorder appends
        with contextlib.closing(JsonlRecorder(path)) as record:
            for episode in part:
                record(episode)
                lines = path.read_text().splitlines()
                assert Episode.from_json(json.loads(lines[-1])) == episode
    assert len(lines) == 4
