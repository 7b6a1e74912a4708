"""Resumed searches against uninterrupted ones, bit by bit, wherever they were stopped."""

import json
import math
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from amc.agents.ddpg.settings import DDPGConfig
from amc.agents.expert.settings import ExpertConfig
from amc.errors import ConfigError, RunError
from amc.pipeline.search import search
from amc.pipeline.worker_pool import Scored
from amc.pruning.plan import Plan
from amc.records.episode import Episode, read_episodes
from amc.records.run_folder import RunFolder
from amc.task import Task
from tests.amc.cli.test_app import run as command
from tests.amc.pipeline.test_search import tiny_task

ROOT = Path(__file__).parents[3]
EPISODES = 10
SETTINGS = {
    "expert": ExpertConfig(warmup_episodes=4, gradient_steps=10),
    "ddpg": DDPGConfig(hidden=(32, 32), gradient_steps=10, warmup_episodes=4),
}


class Here:
    """Takes the place of the pool: the same batches, without processes."""

    def __init__(self, evaluate, _count):
        self._evaluate = evaluate

    def start(self):
        pass

    def __call__(self, plans):
        return [Scored(dict(self._evaluate(widths)), 0.5) for widths in plans]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


def counted(task, data_sha256=None):
    """The task, and a list that grows by every evaluation."""
    calls = []

    def evaluate(candidate):
        calls.append(candidate)
        return task.evaluate(candidate)

    return Task(task.model, task.example_inputs, evaluate, data_sha256=data_sha256), calls


def start(path, task=None, **settings):
    given = {"episodes": EPISODES, "seed": 5, "agent_settings": SETTINGS, **settings}
    return search(task or tiny_task(), "flops=0.5", run=path, **given)


def resumed(path, task=None, **given):
    """The resumed search, its notes, and how many plans it evaluated."""
    notes = []
    task, calls = counted(task or tiny_task())
    result = search(task, run=path, resume=True, on_note=notes.append, **given)
    return result, notes, len(calls)


def timeless(episodes):
    return [{k: v for k, v in e.to_json().items() if k != "seconds"} for e in episodes]


def stored(folder):
    """What a run's files hold, less what time leaves its mark on."""
    actor = folder / "policy" / "actor.safetensors"
    return (
        timeless(read_episodes(folder / "episodes.jsonl")),
        (folder / "plan.json").read_text(),
        actor.read_bytes() if actor.exists() else None,
    )


def contents(folder):
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def cut(whole, path, lines, torn=0.0):
    """A copy of a run as it was after so many episodes, and part of the next one's line."""
    shutil.copytree(whole, path)
    (path / "plan.json").unlink()
    shutil.rmtree(path / "policy", ignore_errors=True)
    kept = (path / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    rest = kept[lines][: int(torn * len(kept[lines]))] if torn else b""
    (path / "episodes.jsonl").write_bytes(b"".join(kept[:lines]) + rest)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted search of the default agent."""
    path = tmp_path_factory.mktemp("whole") / "run"
    return path, start(path)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from amc.task import Task
from tests.amc.pipeline.test_resume import start, tiny_task

torch.set_num_threads(1)  # as in the tests, or the resumed search says that rounding may differ
task, calls = tiny_task(), []

def evaluate(candidate):
    calls.append(candidate)
    if len(calls) == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return task.evaluate(candidate)

start(Path(sys.argv[1]), Task(task.model, task.example_inputs, evaluate))
"""


def test_killed_searches_go_on_as_if_nothing_had_happened(tmp_path, whole):
    first = {episode.widths: episode.number for episode in reversed(whole[1].history)}
    evaluated = sorted(first.values())  # the episodes whose plan was not known before
    for call in (3, len(evaluated)):  # in the warm-up, and when the agent has learned
        folder = tmp_path / str(call)
        process = subprocess.run([sys.executable, "-c", KILLED, folder, str(call)], cwd=ROOT)
        assert process.returncode == -signal.SIGKILL
        assert len(read_episodes(folder / "episodes.jsonl")) == evaluated[call - 1] - 1
        result, notes, calls = resumed(folder)
        assert timeless(result.history) == timeless(whole[1].history)
        assert stored(folder) == stored(whole[0])
        assert result.plan == whole[1].plan
        assert not notes
        assert calls == len(evaluated) - call + 1
    assert evaluated[-1] > SETTINGS["expert"].warmup_episodes


@pytest.mark.parametrize("agent", ["expert", "ddpg", "random"])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_search_may_end_anywhere(tmp_path, monkeypatch, agent, workers):
    monkeypatch.setattr("amc.pipeline.evaluation.WorkerPool", Here)
    whole = tmp_path / "whole"
    expected = start(whole, agent=agent, workers=workers)
    for lines in (0, 4, EPISODES):
        path = cut(whole, tmp_path / str(lines), lines)
        before = (path / "episodes.jsonl").read_bytes()
        result, notes, calls = resumed(path)
        assert stored(path) == stored(whole)
        assert (path / "episodes.jsonl").read_bytes().startswith(before)  # times, too
        assert result.history[:lines] == expected.history[:lines]
        assert not notes
        known = {episode.widths for episode in expected.history[:lines]}
        assert calls == len({episode.widths for episode in expected.history} - known)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_longer_search_is_the_one_that_was_longer_from_the_start(tmp_path, monkeypatch, workers):
    monkeypatch.setattr("amc.pipeline.evaluation.WorkerPool", Here)
    start(tmp_path / "long", episodes=EPISODES + 3, workers=workers)
    start(tmp_path / "run", workers=workers)
    resumed(tmp_path / "run", episodes=EPISODES + 3)
    assert stored(tmp_path / "run") == stored(tmp_path / "long")
    assert RunFolder.open(tmp_path / "run").load_config().episodes == EPISODES + 3
    with pytest.raises(ConfigError, match="can only make it longer"):
        resumed(tmp_path / "run", episodes=EPISODES)


@pytest.mark.parametrize("torn", [0.1, 0.9])
def test_a_line_that_was_cut_off_is_dropped(tmp_path, whole, torn):
    path = cut(whole[0], tmp_path / "run", 6, torn)
    _, notes, _ = resumed(path)
    assert stored(path) == stored(whole[0])
    assert len(notes) == 1
    assert "cut off" in notes[0]


def test_a_line_without_its_end_is_kept(tmp_path, whole):
    path = cut(whole[0], tmp_path / "run", 6)
    lines = (path / "episodes.jsonl").read_bytes()
    (path / "episodes.jsonl").write_bytes(lines[:-1])
    resumed(path)
    assert stored(path) == stored(whole[0])
    assert (path / "episodes.jsonl").read_bytes().startswith(lines)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda lines: lines.__setitem__(4, b"\x00\xff" * 20 + b"\n"), "line 5: not an episode"),
        (lambda lines: lines.__setitem__(4, lines[4].replace(b"reward", b"regard")), "line 5"),
        (lambda lines: lines.pop(4), "line 5: episode 6 in the place of 5"),
    ],
)
def test_a_damaged_line_costs_what_follows_it_and_is_kept(tmp_path, whole, damage, words):
    path = cut(whole[0], tmp_path / "run", 8)
    lines = (path / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    damage(lines)
    (path / "episodes.jsonl").write_bytes(b"".join(lines))
    _, notes, _ = resumed(path)
    assert stored(path) == stored(whole[0])
    assert len(notes) == 1
    assert words in notes[0]
    assert "from the 4 episodes before it" in notes[0]
    assert (path / "episodes.damaged.jsonl").read_bytes() == b"".join(lines)


def test_a_lost_or_damaged_plan_is_written_again(tmp_path, whole):
    for name, text in (("missing", None), ("torn", "{"), ("other", "swapped")):
        path = tmp_path / name
        shutil.copytree(whole[0], path)
        if text is None:
            (path / "plan.json").unlink()
        elif text == "{":
            (path / "plan.json").write_text(text)
        else:
            plan = Plan.load(path / "plan.json")
            plan.model_copy(update={"quality": {"kl": 0.0}}).save(path / "plan.json")
        result, notes, calls = resumed(path)
        assert (calls, notes) == (0, [])
        assert Plan.load(path / "plan.json") == result.plan == whole[1].plan


def refusal(path, task, words, error=RunError, **given):
    before = contents(path)
    with pytest.raises(error, match=words):
        search(task, run=path, resume=True, **given)
    assert contents(path) == before


def test_other_weights_and_other_data_are_refused(tmp_path):
    task, _ = counted(tiny_task(), data_sha256=lambda: "a" * 64)
    start(tmp_path / "run", task, agent="random", episodes=2)
    other = tiny_task()
    with torch.no_grad():
        other.model[0].weight[0, 0, 0, 0] += 1e-6
    same_data, _ = counted(other, data_sha256=lambda: "a" * 64)
    refusal(tmp_path / "run", same_data, "other weights")
    other_data, _ = counted(tiny_task(), data_sha256=lambda: "b" * 64)
    refusal(tmp_path / "run", other_data, r"other images.*aaaaaaaaaaaa, now bbbbbbbbbbbb")


def test_what_cannot_be_played_again_is_refused_with_the_reason(tmp_path, whole):
    path = cut(whole[0], tmp_path / "run", 6)
    config, lines = path / "config.toml", path / "episodes.jsonl"
    sound = config.read_text()
    config.write_text(sound.replace("seed = 5\n", "seed = 6\n", 1))
    other = r"now (comes of other wishes|is proposed as .*)"
    refusal(path, tiny_task(), rf"episode 2, .* {other}; put back its files")
    config.write_text(config.read_text().replace('torch = "', 'torch = "0.4 and ', 1))
    with pytest.warns(UserWarning, match="round differently: torch 0.4 and"):
        refusal(path, tiny_task(), rf"torch 0\.4 and .* then, {re.escape(torch.__version__)} now")
    config.write_text(sound)
    whole_lines = lines.read_text()
    recorded = json.loads(whole_lines.splitlines()[2])
    altered = json.dumps(recorded).replace(f'"reward": {recorded["reward"]}', '"reward": -0.5')
    lines.write_text(whole_lines.replace(json.dumps(recorded), altered))
    refusal(path, tiny_task(), "episode 3, .* has another outcome")


def test_settings_of_a_run_cannot_be_changed(whole):
    refusal(whole[0], tiny_task(), "seed, agent: a resumed", ConfigError, seed=1, agent="random")
    refusal(whole[0], tiny_task(), "budget: a resumed", ConfigError, budget="flops=0.4")


def test_one_search_at_a_time(whole):
    with RunFolder.open(whole[0]).claimed():
        refusal(whole[0], tiny_task(), "another process is searching")


def test_recorded_numbers_come_back_to_the_bit(tmp_path):
    values = torch.randint(0, 2**63 - 1, (2000,), generator=torch.Generator().manual_seed(0))
    floats = [x for x in values.view(torch.float64).tolist() if math.isfinite(x)]
    floats += [5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 0.1 + 0.2, -0.0]
    episode = Episode(
        1, (3,), tuple(floats), (), {"macs": 1}, {"macs": 0.1}, {"kl": floats[0]}, 1 / 3, {}
    )
    path = tmp_path / "episodes.jsonl"
    path.write_text(json.dumps(episode.to_json()) + "\n")
    (again,) = read_episodes(path)
    assert list(map(float.hex, again.proposed_keep)) == list(map(float.hex, floats))
    assert again == episode


def test_the_command_does_what_is_missing(monkeypatch, capsys, tmp_path):
    from safetensors.torch import save_file

    from amc.config import ModelConfig
    from amc.models.factory import build_model

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    save_file(build_model(ModelConfig(spec="amc:smallcnn")).state_dict(), "net.safetensors")
    weights = ("--weights", "net.safetensors", "--agent", "random", "--lr", "0.01")
    small = ("search", "amc:smallcnn", "--images", "40", "--epochs", "1", "--episodes", "3")
    assert command(monkeypatch, capsys, *small, *weights, "--run", "whole")[0] == 0
    network = Path("whole/model.safetensors").read_bytes()

    cut(Path("whole"), Path("run"), 2, torn=0.5)
    for name in ("pruned.safetensors", "model.safetensors", "results.json", "report.html"):
        (Path("run") / name).unlink()
    code, out, error = command(monkeypatch, capsys, "search", "--resume", "run")
    assert code == 0
    assert "cut off" in error
    assert stored(Path("run")) == stored(Path("whole"))
    assert Path("run/model.safetensors").read_bytes() == network
    assert Path("run/report.html").is_file()

    monkeypatch.delattr("amc.vision.task.finetune")  # there is nothing left to do
    code, again, _ = command(monkeypatch, capsys, "search", "--resume", "run")
    assert code == 0
    assert again.splitlines()[1:] == out.splitlines()[1:]
    code, _, error = command(monkeypatch, capsys, "search", "--resume", "run", "--seed", "1")
    assert code == 1
    assert "--resume with --seed" in error


@pytest.mark.parametrize("agent", ["expert", "random"])
@pytest.mark.parametrize("aim", [{"budget": "flops=0.3:0.8"}, {"min_accuracy": 0.97}], ids=repr)
def test_ranges_and_floors_go_on_with_the_budgets_that_would_have_come(tmp_path, aim, agent):
    given = {"episodes": EPISODES, "seed": 5, "agent": agent, "agent_settings": SETTINGS, **aim}
    whole = search(tiny_task(), run=tmp_path / "whole", **given)
    cut(tmp_path / "whole", tmp_path / "cut", 6)
    (tmp_path / "cut" / "front.json").unlink()
    result, _, calls = resumed(tmp_path / "cut")
    assert timeless(result.history) == timeless(whole.history)
    assert calls <= EPISODES - 6 + 1  # and the dense network
    assert stored(tmp_path / "cut") == stored(tmp_path / "whole")
    fronts = [(tmp_path / name / "front.json").read_text() for name in ("cut", "whole")]
    assert fronts[0] == fronts[1]
