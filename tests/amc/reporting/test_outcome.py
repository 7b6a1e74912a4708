"""What is said after a finetuning, and of each of its epochs."""

from __future__ import annotations

from typing import Any

import pytest

from amc.config import FinetuneConfig
from amc.records.results import Results, Row
from amc.reporting.outcome import measured, outcome, used_images
from amc.task import Epoch

COSTS = {"macs": 10, "params": 10}


def results(accuracy: float, dense: float = 0.92, **fields: Any) -> Results:
    """A finetuning of 15 epochs that ended at that test accuracy."""
    epochs = tuple(Epoch(number, 1.0, accuracy, 0.1, 41.0) for number in range(1, 16))
    rows = (
        Row(name="dense", test_accuracy=dense, costs=COSTS),
        Row(name="pruned", test_accuracy=0.5, costs=COSTS),
        Row(name="finetuned", test_accuracy=accuracy, costs=COSTS),
    )
    given = {"rows": rows, "device": "cpu", "verified_error": 0, "epochs": epochs}
    return Results(**given | {"recipe": FinetuneConfig(epochs=15, lr=0.02)} | fields)


def test_the_weights_that_were_kept_and_those_that_were_not() -> None:
    accuracies = {"pruned": 0.85, "last": 0.918, "ema": 0.921}
    said = outcome(results(0.91, kept="ema", accuracies=accuracies))
    assert said == {
        "finetuned": "15 epochs in 10 min 15 s",
        "kept": "the moving average (search-val 92.1%; pruned 85.0%, last epoch 91.8%)",
    }
    said = outcome(results(0.91, kept="best", accuracies={"best": 0.9}))
    assert said["kept"] == "the best epoch (search-val 90.0%)"
    assert outcome(results(0.91))["kept"] == "the last epoch"  # older files
    assert not outcome(results(0.91, epochs=()))


def test_a_finetuning_that_ended_where_it_began() -> None:
    said = outcome(results(0.91, kept="pruned", accuracies={"pruned": 0.9, "last": 0.8}))
    assert said["kept"].startswith("the pruned network as it was cut (search-val 90.0%; last")
    assert "ended where it began" in said["no better"]
    assert "--lr 0.002" in said["no better"]


@pytest.mark.parametrize(("accuracy", "lost"), [(0.93, ""), (0.9, ""), (0.895, "2.5 points")])
def test_more_than_two_points_lost_are_said_with_what_helps(accuracy: float, lost: str) -> None:
    said = outcome(results(accuracy)).get("lost", "")
    assert said.startswith(lost)
    assert bool(said) == bool(lost)
    ways = ("--epochs 60", "--stages 3", "--teacher", "--budget")
    assert [way in said for way in ways] == [bool(lost)] * 4


def test_what_was_tried_is_not_proposed() -> None:
    recipe = FinetuneConfig(epochs=15, stages=3, teacher="amc:resnet56@big.safetensors")
    said = outcome(results(0.8, recipe=recipe))["lost"]
    assert said == "12.0 points against dense; what helps: longer (--epochs 60), a gentler --budget"


def test_without_test_images_search_val_decides() -> None:
    rows = tuple(
        Row(name=name, search_val_accuracy=accuracy, costs=COSTS)
        for name, accuracy in (("dense", 0.9), ("finetuned", 0.8))
    )
    assert outcome(results(0.0, rows=rows))["lost"].startswith("10.0 points")


def test_an_epoch_in_one_line() -> None:
    full = Epoch(3, 0.43216, 0.902, 0.0123, 9.0, 0.901, 0.904, 0.912, {"kd": 1.0}, 1234.4, 300)
    assert measured(full) == (
        "loss 0.4322, train 91.2%, search-val 90.1%, average 90.4%, test 90.2%, lr 0.0123, "
        "1,234 images/s"
    )
    assert measured(Epoch(1, 0.5, None, 0.1, 9.0)) == "loss 0.5000, lr 0.1"


def test_images_that_were_used() -> None:
    used = used_images(results(0.9, images={"train": 45_000, "search_val": 5_000}))
    assert used == "Images used: train 45,000, search-val 5,000."
    assert not used_images(results(0.9))
