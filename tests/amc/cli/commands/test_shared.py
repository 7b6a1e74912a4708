"""How a recovery ends: what it says of the networks that it measured."""

import pytest

from amc.cli.commands.shared import recover_plan
from amc.config import FinetuneConfig
from amc.records.results import Results, Row
from amc.records.run_folder import RunFolder
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
