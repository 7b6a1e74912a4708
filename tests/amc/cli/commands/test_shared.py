"""How a recovery ends: what it says of the networks that it measured."""

import pytest

from amc.cli.commands.shared import recover_plan
from amc.config import FinetuneConfig
from amc.records.results import Results, Row
from amc.records.run_folder import RunFolder
from amc.task import Epoch
from tests.tiny import tiny_task


@pytest.mark.parametrize("clock", ["wall", "cpu"])
@pytest.mark.parametrize("slower", ["wall", "cpu"])
def test_no_faster_is_said_by_the_clock_of_the_run(capsys, tmp_path, clock, slower):
    """Two threads: CPU time is the longer one, and by one of the clocks pruning did not help."""
    cost = {"macs": 9, "params": 9}
    pruned = {"latency_ms": 3 + 2 * (slower == "wall"), "cpu_ms": 7 + 2 * (slower == "cpu")}
    rows = (
        Row(name="dense", latency_ms=4, cpu_ms=8, **cost),
        Row(name="pruned", **pruned, **cost),
    )
    done = Results(rows=rows, device="cpu", clock=clock, verified_error=0)
    recover_plan(tiny_task(), RunFolder(tmp_path), FinetuneConfig(epochs=0), done)
    assert ("no faster" in capsys.readouterr().out) == (clock == slower)


def test_a_finetuning_says_what_was_kept_and_what_helps(capsys, tmp_path):
    cost = {"macs": 9, "params": 9}
    rows = tuple(
        Row(name=name, test_accuracy=accuracy, **cost)
        for name, accuracy in (("dense", 0.9), ("pruned", 0.5), ("finetuned", 0.8))
    )
    done = Results(
        rows=rows,
        device="cpu",
        verified_error=0,
        epochs=(Epoch(1, 1.0, None, 0.1, 9.0),),
        recipe=FinetuneConfig(epochs=1),
        kept="ema",
        accuracies={"ema": 0.81, "pruned": 0.5},
    )
    recover_plan(tiny_task(), RunFolder(tmp_path), FinetuneConfig(epochs=1), done)
    lines = capsys.readouterr().out.splitlines()
    assert "kept        the moving average (search-val 81.0%; pruned 50.0%)" in lines
    (lost,) = [line for line in lines if line.startswith("lost ")]
    assert "10.0 points against dense; what helps: longer (--epochs 4)" in lost
