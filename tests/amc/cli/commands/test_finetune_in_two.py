"""``amc finetune`` in two processes: one tells and writes, and the folder is as by one alone."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import typer

from amc.cli.commands import finetune
from amc.config import DataConfig, EvaluateConfig, ModelConfig
from amc.errors import ConfigError
from amc.pipeline.search import make_config, search
from amc.pruning.checkpoint import load_model
from amc.records.results import Results
from amc.records.run_folder import RunFolder
from amc.vision.task import image_task

pytest.importorskip("accelerate")
RECIPE = ("--epochs", "2", "--lr", "0.02", "--batch-size", "100")


@pytest.fixture
def run(tmp_path: Path, weights: str) -> Path:
    model, data = ModelConfig(spec="amc:smallcnn", weights=weights), DataConfig()
    settings = EvaluateConfig(images=60, calibration_images=60)
    config = make_config(
        "flops=0.5", model=model, data=data, evaluate=settings, agent="random", episodes=2
    )
    search(image_task(model, data, settings, progress=False), config=config, run=tmp_path / "run")
    return tmp_path / "run"


def in_two(run: Path, *options: str) -> list[tuple[int, str, str]]:
    """Exit code, output and errors of each process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in ("0", "1"):
        there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        there |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        command = [sys.executable, "-m", "amc", "finetune", str(run), *options]
        started.append(
            subprocess.Popen(
                command,
                env={**os.environ, **there},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ends = []
    for process in started:
        output, errors = process.communicate(timeout=100)
        ends.append((process.returncode, output, errors))
    return ends


def test_the_first_process_tells_and_writes(run: Path) -> None:
    before = {path.name for path in run.iterdir()}
    (code, output, _), second = in_two(run, *RECIPE)
    assert code == 0
    assert second == (0, "", "")
    assert output.count("Test accuracy") == 1
    folder = RunFolder.open(run)
    results = Results.load(folder.results)
    assert [row.name for row in results.rows] == ["dense", "pruned", "finetuned"]
    assert [epoch.number for epoch in results.epochs] == [1, 2]
    assert results.epochs[1].train_loss < results.epochs[0].train_loss
    assert load_model(folder.finetuned)[1].finetuned_epochs == 2
    written = {folder.finetuned, folder.pruned, folder.results, folder.report, folder.tensorboard}
    assert {path.name for path in run.iterdir()} == before | {path.name for path in written}


def test_the_others_leave_errors_to_the_first_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(finetune.time, "sleep", slept.append)
    monkeypatch.setattr(finetune.console, "quiet", False)
    with warnings.catch_warnings():
        with finetune._one_voice():
            warnings.warn("told by the first", stacklevel=1)
        with pytest.raises(ConfigError, match="wrong"), finetune._one_voice():
            raise ConfigError("wrong")
        assert slept == [finetune._PATIENCE_SECONDS]
        with pytest.raises(typer.Exit), finetune._one_voice():
            raise KeyboardInterrupt
    assert finetune.console.quiet
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError), finetune._one_voice():
        raise ConfigError("wrong")
    assert len(slept) == 1
