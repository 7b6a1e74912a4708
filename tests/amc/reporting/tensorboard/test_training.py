"""A finetuning in the event files, behind the search that came before it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing import plugin_event_accumulator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from amc.records.episode import Episode
from amc.reporting.tensorboard.monitor import TensorBoardMonitor
from amc.reporting.tensorboard.training import TrainingMonitor
from amc.task import Epoch, Step
from tests.fakes import fake_units

UNITS = fake_units((16, 32))
SEARCH = 3
"""Episodes before the finetuning."""
STEPS, EVERY = 10, 5
"""Steps of an epoch, and between two losses."""


def watch_search(folder: Path, known: int = 0) -> None:
    monitor = TensorBoardMonitor(folder, UNITS, dict, {"seed": 3}, resumed_episodes=known)
    for number in range(1, SEARCH + 1):
        keep = (0.5, 0.5)
        kept = {"macs": 0.5, "params": 0.4}
        monitor(Episode(number, (8, 16), keep, keep, {"macs": 4}, kept, {"kl": 1.0}, -1.0, {}))
    monitor.close()


def train(monitor: TrainingMonitor, steps: range, scale: float = 1.0) -> None:
    """Some steps of one training; ``scale`` tells trainings apart."""
    for done in steps:
        loss = scale * done if done % EVERY == 0 else None
        monitor.step(Step(done, 100, loss, {"labels": 0.25, "kd": 0.5}, lr=0.5))
        if done % STEPS == 0:
            number = done // STEPS
            monitor.epoch(
                Epoch(
                    number,
                    train_loss=9.0,
                    test_accuracy=0.5,
                    lr=0.5,
                    seconds=1.0,
                    search_val_accuracy=scale * number / 64,
                    ema_accuracy=0.75,
                    train_accuracy=0.25,
                    images_per_second=2000.0,
                    steps=done,
                )
            )


def order(folder: Path) -> None:
    """Files are read in the order of the seconds in their names: let some have passed."""
    written = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    for number, path in enumerate(written):
        path.rename(path.with_name(f"events.out.tfevents.{number:010}.host{path.suffix}"))


def curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(point.step, point.value) for point in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


def test_one_time_line_with_the_search(tmp_path: Path) -> None:
    watch_search(tmp_path)
    monitor = TrainingMonitor(tmp_path, offset=SEARCH)
    train(monitor, range(1, 21))
    monitor.close()
    order(tmp_path)
    found = curves(tmp_path)
    assert [step for step, _ in found["reward/episode"]] == [1, 2, 3]
    assert found["finetune/loss"] == [(8, 5.0), (13, 10.0), (18, 15.0), (23, 20.0)]
    assert found["finetune/loss_kd"] == [(step, 0.5) for step in (8, 13, 18, 23)]
    assert found["finetune/loss_labels"][0] == (8, 0.25)
    assert found["finetune/learning_rate"][0] == (8, 0.5)
    epochs = {
        "epoch": [1, 2],
        "accuracy_train": [0.25, 0.25],
        "accuracy_search_val": [1 / 64, 2 / 64],
        "accuracy_search_val_ema": [0.75, 0.75],
        "accuracy_test": [0.5, 0.5],
        "images_per_second": [2000, 2000],
    }
    for name, (first, second) in epochs.items():
        assert found[f"finetune/{name}"] == [(13, first), (23, second)]


def test_what_is_not_known_has_no_chart_and_a_loss_that_no_step_told_is_the_epoch_s(
    tmp_path: Path,
) -> None:
    monitor = TrainingMonitor(tmp_path, offset=0)
    monitor.step(Step(1, 2))
    monitor.epoch(Epoch(1, 0.5, None, 0.25, 1.0, losses={"kd": 2.0}, steps=2))
    monitor.close()
    assert curves(tmp_path) == {
        "finetune/epoch": [(2, 1)],
        "finetune/loss": [(2, 0.5)],
        "finetune/loss_kd": [(2, 2.0)],
        "finetune/learning_rate": [(2, 0.25)],
    }


@pytest.mark.parametrize("search_is_resumed", [False, True])
def test_a_resumed_finetuning_is_one_curve(tmp_path: Path, search_is_resumed: bool) -> None:
    """Killed in the third epoch, three steps after the checkpoint, and gone on from there: the
    finished search is resumed before it, and has nothing to add."""
    watch_search(tmp_path / "whole")
    whole = TrainingMonitor(tmp_path / "whole", offset=SEARCH)
    train(whole, range(1, 41))
    watch_search(tmp_path / "killed")
    killed = TrainingMonitor(tmp_path / "killed", offset=SEARCH)
    train(killed, range(1, 23))
    train(killed, range(23, 28), scale=5.0)
    killed.close()
    if search_is_resumed:
        watch_search(tmp_path / "killed", known=SEARCH)
    resumed = TrainingMonitor(tmp_path / "killed", offset=SEARCH, resumed_steps=22)
    train(resumed, range(23, 41))
    for monitor in (whole, resumed):
        monitor.close()
    order(tmp_path / "whole")
    order(tmp_path / "killed")
    assert curves(tmp_path / "killed") == curves(tmp_path / "whole")
    # What the server reads with.
    found = plugin_event_accumulator.EventAccumulator(str(tmp_path / "killed")).Reload()
    steps = [point.step for point in found.Tensors("finetune/loss")]
    assert steps == [SEARCH + done for done in range(EVERY, 41, EVERY)]
    assert "_hparams_/session_end_info" in found.summary_metadata


def test_another_finetuning_replaces_the_earlier_one(tmp_path: Path) -> None:
    watch_search(tmp_path)
    for steps, scale in ((range(1, 31), 5.0), (range(1, 11), 1.0)):
        monitor = TrainingMonitor(tmp_path, offset=SEARCH)
        train(monitor, steps, scale)
        monitor.close()
    order(tmp_path)
    found = curves(tmp_path)
    assert found["finetune/loss"] == [(8, 5.0), (13, 10.0)]
    assert len(found["reward/episode"]) == SEARCH
