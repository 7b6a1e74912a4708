from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from amc.envs.pruning import PruningEnv
from amc.records.episode import Episode, JsonlRecorder
from amc.reporting.tensorboard.monitor import TensorBoardMonitor
from tests.fakes import fake_problem, rollout

ALL = {"images": 0, "tensors": 0, "scalars": 0, "text": 0}
"""Points that a reader keeps, by what they are; 0 stands for all."""
PICTURES = {"best/plan", "episodes/reward", "episodes/tradeoff"}
SPARSE = {*PICTURES, "best/plan/text_summary"}
"""What is not written after each episode."""


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    env, generator = PruningEnv(fake_problem()), np.random.default_rng(0)
    return [
        Episode.from_json(rollout(env, generator.uniform(-1, 1, 9))[2]["plan"]) for _ in range(6)
    ]


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance=ALL).Reload()


@pytest.fixture
def events(tmp_path: Path, episodes: list[Episode]) -> EventAccumulator:
    values = iter(range(100))
    monitor = TensorBoardMonitor(
        tmp_path,
        fake_problem().units,
        lambda: {"exploration/std": float(next(values)), "my own/ta-g (%)": 0.5},
        {"seed": 3, "preset": "default", "rank": True},
    )
    for episode in episodes:
        monitor(episode)
    monitor.close()
    assert [p.is_file() for p in tmp_path.iterdir()] == [True]  # one event file, no sub-folder
    return read(tmp_path)


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
    assert read("best/kept_macs") == pytest.approx([episodes[i].kept["macs"] for i in best])
    assert read("cost/kept_macs") == pytest.approx([e.kept["macs"] for e in episodes])
    assert read("cost/kept_params") == pytest.approx([e.kept["params"] for e in episodes])
    assert read("seconds/evaluate") == pytest.approx([e.seconds["evaluate"] for e in episodes])
    assert read("keep/conv4") == pytest.approx([e.executed_keep[4] for e in episodes])
    assert read("exploration/std") == [0, 1, 2, 3, 4, 5]
    assert read("my own/ta-g (%)") == [0.5] * 6


def test_names_of_stable_baselines3(tmp_path: Path, episodes: list[Episode]) -> None:
    """105 episodes of 9 units, half a second each: means are of the last 100."""
    rewards = np.random.default_rng(0).normal(size=105)
    told = {"losses/actor": 0.25, "losses/critic": 4.0, "train/n_updates": 7.0}
    with contextlib.closing(
        TensorBoardMonitor(tmp_path, fake_problem().units, lambda: told)
    ) as monitor:
        for number, reward in enumerate(rewards, 1):
            phases = {"evaluate": 0.375, "agent": 0.125}
            monitor(replace(episodes[0], number=number, reward=float(reward), seconds=phases))
    found = read(tmp_path)
    last = {tag: found.Scalars(tag)[-1].value for tag in found.Tags()["scalars"]}
    expected = {
        "rollout/ep_rew_mean": rewards[5:].mean(),
        "rollout/ep_len_mean": 9,
        "train/actor_loss": 0.25,
        "train/critic_loss": 4.0,
        "train/n_updates": 7,
        "time/iterations": 105,
        "time/total_timesteps": 945,
        "time/time_elapsed": 52.5,
        "time/fps": 18,
    }
    assert {tag: last[tag] for tag in expected} == pytest.approx(expected, rel=1e-6)
    means = [point.value for point in found.Scalars("rollout/ep_rew_mean")]
    assert means[:3] == pytest.approx([rewards[: n + 1].mean() for n in range(3)])


def test_what_the_budget_bounds_is_shown(tmp_path: Path, episodes: list[Episode]) -> None:
    timed = replace(episodes[0], kept={"macs": 0.5, "params": 0.25, "latency_us": 0.75})
    monitor = TensorBoardMonitor(tmp_path, fake_problem().units, cost="latency_us")
    monitor(timed)
    monitor.close()
    assert "75.0% of the latency" in monitor.table(timed)
    found = read(tmp_path)
    assert found.Scalars("best/kept_latency")[0].value == 0.75
    assert found.Scalars("best/kept_macs")[0].value == 0.5


def test_best_plan_is_told_when_it_improves(
    events: EventAccumulator, episodes: list[Episode]
) -> None:
    rewards = [episode.reward for episode in episodes]
    improved = [e.number for i, e in enumerate(episodes) if rewards[i] > max([-9e9, *rewards[:i]])]
    texts = events.Tensors("best/plan/text_summary")
    assert [text.step for text in texts] == improved
    table = texts[-1].tensor_proto.string_val[0].decode()
    assert f"reward {max(rewards):.4f}" in table
    plan = episodes[improved[-1] - 1]
    assert f"| conv8 | 64 | {plan.widths[8]} | {plan.executed_keep[8]:.2f} |" in table


def test_pictures(events: EventAccumulator) -> None:
    images = {tag: events.Images(tag) for tag in events.Tags()["images"]}
    assert set(images) == PICTURES
    assert {points[-1].step for points in images.values()} == {6}
    for points in images.values():
        assert points[-1].encoded_image_string.startswith(b"\x89PNG")


def test_a_killed_run_has_left_everything_but_its_end(
    tmp_path: Path, episodes: list[Episode]
) -> None:
    monitor = TensorBoardMonitor(tmp_path, fake_problem().units, dict, {"seed": 3})
    begun = read(tmp_path).summary_metadata
    assert {"_hparams_/session_start_info", "custom_scalars__config__"} <= set(begun)
    for number, episode in enumerate(episodes, 1):
        monitor(episode)
        left = read(tmp_path)
        assert [point.step for point in left.Scalars("best/reward")][-1] == number
    assert "_hparams_/session_end_info" not in left.summary_metadata
    monitor.close()
    assert "_hparams_/session_end_info" in read(tmp_path).summary_metadata


@pytest.mark.parametrize("recorded", [[2, 4], [5]])
def test_a_resumed_search_is_one_curve(
    tmp_path: Path, episodes: list[Episode], recorded: list[int]
) -> None:
    """Killed, each time two episodes after the last of the record; those went otherwise."""
    units = fake_problem().units
    known = 0
    for end in recorded:
        killed = TensorBoardMonitor(tmp_path / "resumed", units, resumed_episodes=known)
        for episode in episodes[:end]:
            killed(episode)
        for number in (end + 1, end + 2):
            killed(replace(episodes[0], number=number, reward=9.0, seconds={"evaluate": 1e6}))
        known = end
        # Files are read in the order of their names, which tell seconds: let some have passed.
        (written,) = (tmp_path / "resumed").glob("events.out.tfevents.1*")
        written.rename(written.with_name(f"events.out.tfevents.{end:010}.host"))
    whole = TensorBoardMonitor(tmp_path / "whole", units)
    resumed = TensorBoardMonitor(tmp_path / "resumed", units, resumed_episodes=known)
    for episode in episodes:
        whole(episode)
        resumed(episode)
    whole.close()
    resumed.close()

    # What the server reads with; the other reader never drops texts.
    expected, found = (
        plugin_event_accumulator.EventAccumulator(str(tmp_path / name), tensor_size_guidance=ALL)
        for name in ("whole", "resumed")
    )
    tags = set(expected.Reload().Tags()["tensors"]) - {"custom_scalars__config__"}
    present = set(found.Reload().Tags()["tensors"]) & tags
    assert present >= tags - PICTURES
    for tag in tags - SPARSE:
        curve = [(point.step, point.tensor_proto) for point in found.Tensors(tag)]
        assert curve == [(point.step, point.tensor_proto) for point in expected.Tensors(tag)]
        assert [step for step, _ in curve] == [1, 2, 3, 4, 5, 6]
    for tag in SPARSE & present:
        steps = [point.step for point in found.Tensors(tag)]
        assert steps == sorted(set(steps))
        assert steps[-1] <= 6
    best = expected.Tensors("best/plan/text_summary")[-1].tensor_proto
    assert found.Tensors("best/plan/text_summary")[-1].tensor_proto == best


def test_jsonl_is_readable_while_it_grows(episodes: list[Episode], tmp_path: Path) -> None:
    path = tmp_path / "episodes.jsonl"
    for part in (episodes[:2], episodes[2:4]):  # a second recorder appends
        with contextlib.closing(JsonlRecorder(path)) as record:
            for episode in part:
                record(episode)
                lines = path.read_text().splitlines()
                assert Episode.from_json(json.loads(lines[-1])) == episode
    assert len(lines) == 4
