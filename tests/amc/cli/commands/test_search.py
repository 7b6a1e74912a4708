"""``amc search`` from its beginning to a finetuned, exported network, and cut short."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.amc.cli.test_app import SMALL, run


def test_nan_weights_are_named(monkeypatch, capsys, tmp_path, weights):
    state = load_file(weights)
    state["conv2.weight"][0, 0, 0, 0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    arguments = (*SMALL, "--weights", str(tmp_path / "nan.safetensors"))
    code, _, error = run(monkeypatch, capsys, *arguments)
    assert code == 1
    assert "conv2.weight" in error


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
    rows = json.loads((path / "results.json").read_text())["rows"]
    assert rows[2]["name"] == "finetuned"
    code, out, _ = run(monkeypatch, capsys, "measure", str(path), "--repeats", "5", "--json")
    assert code == 0
    costs = [[row["name"], row["costs"]["macs"], row["costs"]["params"]] for row in rows]
    measured = json.loads(out)["networks"]
    assert [[row[key] for key in ("name", "macs", "params")] for row in measured] == costs
    code, out, _ = run(monkeypatch, capsys, "export", str(path), "--onnx", "small.onnx")
    assert code == 0
    size = Path("small.onnx").stat().st_size / 1e6
    assert re.search(rf"small\.onnx, {size:.2f} MB, differs from PyTorch by \d\.\de-\d\d", out)


def test_ctrl_c_leaves_a_usable_run(tmp_path, weights):
    path = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "amc.cli.app",
        *SMALL,
        "--weights",
        weights,
        "--run",
        str(path),
    ]
    process = subprocess.Popen(
        [*command, "--agent", "random", "--episodes", "100000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[4],
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
    assert json.loads((path / "plan.json").read_text())["costs"] == best["costs"]
    assert (path / "report.html").is_file()
