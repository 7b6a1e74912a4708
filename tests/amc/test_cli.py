"""The command line: one clear line for what a user gets wrong, and the tables for the rest."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from amc import cli
from amc.config import ModelConfig
from amc.models import build_model


def run(monkeypatch, capsys, *arguments):
    """Exit code, standard output and standard error of ``amc ARGUMENTS``."""
    monkeypatch.setattr(sys, "argv", ["amc", *arguments])
    monkeypatch.setenv("COLUMNS", "200")
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    output = capsys.readouterr()
    return code, output.out, output.err


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "small.safetensors"
    save_file(build_model(ModelConfig(spec="amc:smallcnn")).state_dict(), path)
    return str(path)


SMALL = ("search", "amc:smallcnn", "--data", "digits", "--images", "40", "--epochs", "0")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("inspect", "amc:resnet21"), "resnet20"),
        (("inspect", "amc:resnet20", "--weights", "absent.pth"), "absent.pth"),
        (("inspect", "amc:resnet20", "--exclude", "layer9.*"), "layer9.*"),
        (("inspect", "amc:resnet20", "--exclude", "kind:heads"), "no unit matches 'kind:heads'"),
        (("inspect", "amc:resnet20", "--round-to", "conv"), "KIND=NUMBER"),
        (("inspect", "amc:resnet20", "--round-to", "convs=8"), "no unit is of kind 'convs'"),
        (("inspect", "amc:resnet20", "--input", "3,x"), "C,H,W"),
        (("inspect", "amc:resnet20", "--model-arg", "depth"), "KEY=VALUE"),
        ((*SMALL[:3], "mnist"), "imagefolder:DIR"),
        ((*SMALL, "--budget", "watts=0.5"), "flops, params"),
        ((*SMALL, "--budget", "flops=1.5"), "(0, 1]"),
        ((*SMALL, "--budget", "flops=0.0001"), "least achievable"),
        ((*SMALL, "--exclude", "*"), "nothing can be pruned"),
        ((*SMALL, "--min-width", "999"), "at least 999 (min_width=999)"),
        ((*SMALL, "--round-to", "all=8", "--round-to", "16"), "all has two multiples"),
        ((*SMALL, "--preset", "fast"), "amc-paper"),
        ((*SMALL, "--reward", "beauty"), "cross_entropy"),
        (("compare", "amc:smallcnn", "--agents", "random,sac"), "(got 'sac')"),
        (("compare", "amc:smallcnn", "--agents", "ddpg:fast"), "ddpg:amc-paper"),
        (("compare", "amc:smallcnn", "--evaluations", "20,many"), "evaluations.1: "),
        (("compare", "amc:smallcnn", "--run", "/"), "/ holds something else"),
        (("compare", "amc:resnet21", "--agents", "uniform", "--seeds", "1"), "resnet20"),
        (("search",), "amc search --resume RUN"),
        (("search", "--resume", "absent"), "config.toml"),
        (("finetune", "."), "config.toml"),
        (("report", "absent"), "absent"),
        (("apply", "absent.json"), "absent.json"),
        (("export", "absent.safetensors"), "give --onnx OUT.onnx, --pt2 OUT.pt2, or both"),
        (("export", "absent.safetensors", "--onnx", "out.onnx"), "absent.safetensors: no such"),
        (("export", ".", "--onnx", "out.onnx"), "config.toml"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(monkeypatch, capsys, tmp_path, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, _, error = run(monkeypatch, capsys, *arguments)
    assert code == 1
    assert words in error
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert "Traceback" not in error


def test_debug_shows_the_traceback(monkeypatch, capsys):
    _, _, error = run(monkeypatch, capsys, "--debug", "inspect", "amc:resnet21")
    assert "Traceback" in error


def test_nan_weights_are_named(monkeypatch, capsys, tmp_path, weights):
    from safetensors.torch import load_file

    state = load_file(weights)
    state["conv2.weight"][0, 0, 0, 0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    arguments = (*SMALL, "--weights", str(tmp_path / "nan.safetensors"))
    code, _, error = run(monkeypatch, capsys, *arguments)
    assert code == 1
    assert "conv2.weight" in error


def test_inspect_prints_the_same_numbers_as_json(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "inspect", "amc:resnet20", "--json")
    description = json.loads(out)
    assert code == 0
    # 40,551,040: conv MACs of He et al.'s ResNet-20 at 32 px, and its 640-weight classifier.
    assert description["macs"] == 40_551_040
    assert description["params"] == 269_722
    assert description["prunable_macs_share"] == 1.0
    assert [u["width"] for u in description["units"]] == [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    code, out, _ = run(monkeypatch, capsys, "inspect", "amc:resnet20")
    assert "40,551,040" in out
    assert "network output" in out
    assert "layer1.{0..2}.conv1" in out
    _, out, _ = run(monkeypatch, capsys, "inspect", "amc:resnet20", "--all")
    assert "layer1.{0..2}.conv1" not in out
    assert "layer1.1.conv1" in out


def test_inspect_takes_every_bound(monkeypatch, capsys):
    bounds = ("--min-keep", "0.2", "--min-width", "6", "--gentle-ends", "--exclude", "layer2.0.*1")
    multiples = ("--round-to", "4", "--round-to", "stream=8")
    _, out, _ = run(monkeypatch, capsys, "inspect", "amc:resnet20", *bounds, *multiples, "--json")
    units = {unit["name"]: unit for unit in json.loads(out)["units"]}
    assert {name: unit["least_width"] for name, unit in units.items()} == {
        "conv1": 8,
        **dict.fromkeys(("layer1.0.conv1", "layer1.1.conv1", "layer1.2.conv1"), 8),
        **dict.fromkeys(("layer2.1.conv1", "layer2.2.conv1"), 8),
        **dict.fromkeys(("layer3.0.conv1", "layer3.1.conv1", "layer3.2.conv1"), 16),
    }
    assert {unit["multiple"] for unit in units.values()} == {4, 8}


def test_search_applies_and_reports(monkeypatch, capsys, tmp_path, weights):
    monkeypatch.chdir(tmp_path)
    arguments = (*SMALL, "--weights", weights, "--agent", "random", "--episodes", "3")
    code, out, _ = run(monkeypatch, capsys, *arguments)
    assert code == 0
    path = tmp_path / "runs" / "smallcnn-macs0.5-random-seed0"
    assert {p.name for p in path.iterdir()} >= {
        "config.toml",
        "episodes.jsonl",
        "plan.json",
        "pruned.safetensors",
        "results.json",
        "report.html",
        "tb",
    }
    assert "report.html" in out
    code, out, _ = run(monkeypatch, capsys, "finetune", str(path), "--epochs", "1")
    assert code == 0
    assert json.loads((path / "results.json").read_text())["rows"][2]["name"] == "finetuned"
    code, out, _ = run(monkeypatch, capsys, "export", str(path), "--onnx", "small.onnx")
    assert code == 0
    size = Path("small.onnx").stat().st_size / 1e6
    assert re.search(rf"small\.onnx, {size:.2f} MB, differs from PyTorch by \d\.\de-\d\d", out)


def test_a_full_disk_is_one_line(monkeypatch, capsys, tmp_path, weights):
    import amc.pipeline

    def full(*_):
        raise OSError(28, "No space left on device", "episodes.jsonl")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(amc.pipeline.JsonlRecorder, "__call__", full)
    arguments = (*SMALL, "--weights", weights, "--agent", "random", "--episodes", "3")
    code, _, error = run(monkeypatch, capsys, *arguments)
    assert code == 1
    assert "No space left on device" in error
    assert "Traceback" not in error


def test_ctrl_c_leaves_a_usable_run(tmp_path, weights):
    path = tmp_path / "run"
    command = [sys.executable, "-m", "amc.cli", *SMALL, "--weights", weights, "--run", str(path)]
    process = subprocess.Popen(
        [*command, "--agent", "random", "--episodes", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[2],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (path / "episodes.jsonl").exists() and (path / "plan.json").exists():
            break
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "the best plan so far" in " ".join(output.split())
    assert f"go on: amc search --resume {path}" in " ".join(output.split())
    assert "Traceback" not in output
    episodes = [json.loads(line) for line in (path / "episodes.jsonl").read_text().splitlines()]
    best = max(episodes, key=lambda episode: episode["reward"])
    assert json.loads((path / "plan.json").read_text())["macs"] == best["macs"]
    assert (path / "report.html").is_file()


def test_compare_prints_tables_or_json_and_goes_on(monkeypatch, capsys, tmp_path, weights):
    monkeypatch.chdir(tmp_path)
    command = ("compare", "amc:smallcnn", "--data", "digits", "--images", "40", "--jobs", "1")
    given = ("--weights", weights, "--evaluations", "2,3", "--run", "both")
    code, out, _ = run(monkeypatch, capsys, *command, *given, "--agents", "random", "--seeds", "1")
    assert code == 0
    assert re.search(r"random +│ +1 │", out)
    assert "both/compare.md" in out
    line = (tmp_path / "both/runs.jsonl").read_text()
    command = (*command, *given, "--agents", "random,uniform", "--seeds", "2", "--json")
    code, out, error = run(monkeypatch, capsys, *command)
    assert code == 0
    assert error == ""
    told = json.loads(out)
    seeds = {one["agent"]: one["seeds"] for one in told["agents"]}
    assert seeds == {"random": [0, 1], "uniform": [0]}
    lines = (tmp_path / "both/runs.jsonl").read_text()
    assert lines.startswith(line)
    best = [min(json.loads(x)["quality"]["kl"]) for x in lines.splitlines()[::2]]
    assert told["agents"][0]["least"][-1] == min(best)
