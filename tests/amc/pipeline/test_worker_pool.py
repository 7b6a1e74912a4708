"""Evaluations in other processes: the same numbers, whatever happens to the processes."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from amc.agents.expert.settings import ExpertConfig
from amc.config import EvaluateConfig, ModelConfig
from amc.errors import ConfigError, EvaluationError
from amc.pipeline.search import search
from amc.pipeline.worker_pool import WorkerPool
from amc.pruning.find_units import find_units
from amc.pruning.plan_evaluator import PlanEvaluator
from amc.task import Task
from amc.vision.task import image_task
from tests.amc.pipeline.test_resume import Here, timeless
from tests.amc.pipeline.test_search import tiny_task
from tests.evaluations import FAILING, KILLER, Numbers, Outputs, Treacherous

ROOT = Path(__file__).parents[3]


def test_plans_come_back_in_order_and_bad_ones_are_named():
    plans = [(number, 2, 3) for number in range(5)]
    with WorkerPool(Numbers(), 2) as pool:
        assert [answer.quality["kl"] for answer in pool(plans)] == [sum(p) / 7 for p in plans]
        with pytest.raises(EvaluationError, match=r"widths \[7, 7, 7\]: RuntimeError: out of im"):
            pool([FAILING])
        with pytest.raises(EvaluationError, match=r"widths \[6, 6, 6\].* 3 times \(SIGKILL\)"):
            pool([KILLER])
    assert not alive(os.getpid())


def test_a_search_with_workers_is_the_one_without_although_one_dies(tmp_path, monkeypatch):
    base = tiny_task()
    images = torch.randn(32, 2, 6, 6, generator=torch.Generator().manual_seed(1))

    def searched(log, deadly=0):
        task = Task(base.model, images[:1], Outputs(base.model, images, log, deadly))
        agent = {"expert": ExpertConfig(warmup_episodes=3)}
        return search(task, "flops=0.5", episodes=9, seed=2, workers=2, agent_settings=agent)

    with monkeypatch.context() as patch:
        patch.setattr("amc.pipeline.evaluation.WorkerPool", Here)
        expected = searched(tmp_path / "here")
    evaluated = (tmp_path / "here").read_text().split()
    deadly = Counter(evaluated).most_common()[-1][0]
    found = searched(tmp_path / "there", int(deadly))
    assert timeless(found.history) == timeless(expected.history)
    assert Counter((tmp_path / "there").read_text().split()) == Counter([*evaluated, deadly])
    assert len(evaluated) == len({episode.widths for episode in found.history})
    assert not alive(os.getpid())


def test_a_worker_computes_what_this_process_does(tmp_path):
    """On a network with BatchNorm whose class lives in a user's file."""
    file = tmp_path / "my_net.py"
    file.write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    pass\n"
        "def make(num_classes):\n"
        "    return Net(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3),\n"
        "        nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, num_classes))\n"
    )
    settings = EvaluateConfig(images=60, calibration_images=60, batch_size=25)
    task = image_task(ModelConfig(spec=f"{file}:make"), "digits", settings, progress=False)
    units = find_units(task.model, task.example_inputs)
    plans = [units.dense_widths, tuple(unit.width // 2 for unit in units)]
    here = PlanEvaluator(task, units)
    with WorkerPool(PlanEvaluator(task, units), 1) as pool:
        assert [answer.quality for answer in pool(plans)] == [here(widths) for widths in plans]


def test_what_cannot_be_sent_is_said_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be sent .* top level of a module"):
        search(tiny_task(), "flops=0.5", episodes=4, workers=2, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_unpacked_is_said():
    with (
        WorkerPool(Treacherous(), 1) as pool,
        pytest.raises(ConfigError, match=r"cannot be sent .* no such luck"),
    ):
        pool.start()


ENDLESS = """
import time
from amc.pipeline.worker_pool import WorkerPool

class Sleeper:
    def __call__(self, widths):
        time.sleep(1000)

if __name__ == "__main__":
    with WorkerPool(Sleeper(), 1) as pool:
        pool.start()
        print("ready", flush=True)
        try:
            pool([(1,)])
        finally:
            time.sleep(0.5)  # in which a worker that was interrupted, too, would say so
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, end):
    script = tmp_path / "script.py"
    script.write_text(ENDLESS)
    process = subprocess.Popen(
        [sys.executable, script],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout.readline() == "ready\n"
    (worker,) = alive(process.pid)
    if end == signal.SIGINT:
        os.killpg(process.pid, end)  # as a terminal does: the worker is in the group
    else:
        process.kill()
    _, error = process.communicate(timeout=30)
    assert error.count("Traceback") == (end == signal.SIGINT)  # the script's own
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(parent):
    """Ids of the workers of a process."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdecimal() and b"spawn_main" in (folder / "cmdline").read_bytes():
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    found.append(int(folder.name))
        except OSError:  # it ended while we looked
            pass
    return found
