"""What the lines on standard error say."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from amc.reporting.progress import Bar, _TimeLeft
from amc.task import Epoch, Step


def test_a_training_s_line_keeps_the_loss_until_the_next_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    with Bar() as bar:
        show = bar.step("finetune")
        for step in (Step(1, 30, 2.5), Step(2, 30), Step(3, 30)):
            show(step)
        bar.epoch(Epoch(1, 0.5, 0.75, 0.1, 9.0, search_val_accuracy=0.8))
    seen = capsys.readouterr().err
    assert "epoch 1     loss 0.5000, search-val 80.0%, test 75.0%, lr 0.1\n" in seen
    last = seen[seen.rindex("finetune") :]
    assert "3/30" in last
    assert "loss 2.5000" in last


@pytest.mark.parametrize(("rate", "left"), [(10.0, "9 s left"), (0.1, "15 min 0 s left")])
def test_the_time_left_is_readable(rate: float, left: str) -> None:
    now = 0.0
    with Progress(
        console=Console(file=io.StringIO()),
        get_time=lambda: now,
        auto_refresh=False,
        speed_estimate_period=1e4,
    ) as progress:
        task = progress.add_task("a", total=100)
        assert str(_TimeLeft().render(progress.tasks[0])) == ""
        for done in range(1, 11):
            now = done / rate
            progress.update(task, completed=done)
        assert str(_TimeLeft().render(progress.tasks[0])) == left
        progress.update(task, completed=100)
        assert str(_TimeLeft().render(progress.tasks[0])) == ""
