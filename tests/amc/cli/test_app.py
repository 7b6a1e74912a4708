"""The command line: one clear line for what a user gets wrong, and for Ctrl-C."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from amc.cli import app as cli


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


def test_brackets_are_no_markup(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "timm", None)
    _, _, error = run(monkeypatch, capsys, "inspect", "timm:resnet18")
    assert "pip install amc-agent[timm]" in error


def test_debug_shows_the_traceback(monkeypatch, capsys):
    _, _, error = run(monkeypatch, capsys, "--debug", "inspect", "amc:resnet21")
    assert "Traceback" in error


def test_a_full_disk_is_one_line(monkeypatch, capsys, tmp_path, weights):
    import amc.pipeline.history

    def full(*_):
        raise OSError(28, "No space left on device", "episodes.jsonl")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(amc.pipeline.history.JsonlRecorder, "__call__", full)
    arguments = (*SMALL, "--weights", weights, "--agent", "random", "--episodes", "3")
    code, _, error = run(monkeypatch, capsys, *arguments)
    assert code == 1
    assert "No space left on device" in error
    assert "Traceback" not in error


def test_help_lists_the_commands_in_the_order_of_their_use(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "--help")
    assert code == 0
    path = ["demo", "inspect", "search", "replay", "compare", "apply", "finetune"]
    path += ["measure", "export", "report"]
    assert re.findall(r"^│ (\w+) ", out, re.MULTILINE) == path


@pytest.mark.parametrize(
    "command",
    [("inspect",), ("search", "--run", "run"), ("compare", "--run", "run", "--jobs", "1")],
)
def test_an_interrupted_command_says_so_once(monkeypatch, capsys, tmp_path, command):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text("def make():\n    raise KeyboardInterrupt\n")
    arguments = (command[0], "net.py:make", *command[1:])
    code, _, error = run(monkeypatch, capsys, *arguments)
    assert code == 130
    assert error.strip() == "error: interrupted; what was written before is still sound"


def test_ctrl_c_ends_any_command_with_one_line(tmp_path):
    begun = tmp_path / "begun"
    net = tmp_path / "net.py"
    net.write_text(
        "import pathlib, time\n"
        f"def make():\n    pathlib.Path({str(begun)!r}).touch()\n    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "amc.cli.app", "inspect", f"{net}:make"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[3],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 60
    while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert output.splitlines() == ["error: interrupted; what was written before is still sound"]
