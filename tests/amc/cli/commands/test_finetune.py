"""``amc finetune``: killed at any moment and resumed, and what it refuses."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from amc.cli.app import main
from amc.config import DataConfig, EvaluateConfig, FinetuneConfig, ModelConfig
from amc.models.factory import build_model
from amc.pipeline.search import make_config, search
from amc.pruning.checkpoint import load_model
from amc.records.results import Results
from amc.records.run_folder import RunFolder
from amc.vision.task import image_task

RECIPE = FinetuneConfig(epochs=6, batch_size=64, checkpoint_minutes=1e-3)
"""It comes from the run; a checkpoint about every sixteenth of a second."""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("searched")
    model, data = ModelConfig(spec="amc:smallcnn"), DataConfig()
    save_file(build_model(model).state_dict(), folder / "w.safetensors")
    model = ModelConfig(spec="amc:smallcnn", weights=str(folder / "w.safetensors"))
    settings = EvaluateConfig(images=60, calibration_images=60)
    config = make_config(
        "flops=0.5",
        model=model,
        data=data,
        evaluate=settings,
        agent="random",
        episodes=2,
        finetune=RECIPE,
    )
    search(image_task(model, data, settings, progress=False), config=config, run=folder / "run")
    return folder / "run"


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["amc", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def killed(run: Path, *options: str, after: int) -> None:
    """Start ``amc finetune`` and kill it when that many checkpoints have been written."""
    arguments = [sys.executable, "-m", "amc", "finetune", str(run), "--threads", "1", *options]
    process = subprocess.Popen(
        arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    seen: set[int] = set()
    deadline = time.monotonic() + 100
    while len(seen) < after and process.poll() is None and time.monotonic() < deadline:
        for file in (run / "finetuning").glob("*.pt"):
            try:
                seen.add(file.stat().st_mtime_ns)
            except FileNotFoundError:
                continue
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    _, errors = process.communicate()
    assert seen, errors


def test_killed_and_resumed_it_ends_as_if_nothing_had_happened(
    searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for folder in (whole, torn):
        shutil.copytree(searched, folder)
    threads = torch.get_num_threads()
    try:
        assert command(monkeypatch, "finetune", str(whole), "--threads", "1") == 0
        killed(torn, after=2)
        assert command(monkeypatch, "finetune", str(torn)) == 1  # what is there is not lost
        killed(torn, "--resume", after=3)
        assert command(monkeypatch, "finetune", str(torn), "--resume", "--threads", "1") == 0
    finally:
        torch.set_num_threads(threads)
    networks = [load_model(RunFolder(folder).finetuned)[0] for folder in (whole, torn)]
    states = [network.state_dict() for network in networks]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    results = [Results.load(RunFolder(folder).results) for folder in (whole, torn)]
    assert results[0].accuracies == results[1].accuracies
    assert not (torn / "finetuning").exists()
    curves = []
    for folder in (whole, torn):
        events = EventAccumulator(str(folder / "tb"))
        events.Reload()
        curves.append(
            {
                tag: [(event.step, event.value) for event in events.Scalars(tag)]
                for tag in ("finetune/loss", "finetune/accuracy_search_val")
            }
        )
    assert curves[0] == curves[1]
    first, *_ = curves[0]["finetune/accuracy_search_val"]
    assert first[0] > 2  # after the episodes of the search


def test_what_cannot_be_resumed(
    searched: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    shutil.copytree(searched, run)
    assert command(monkeypatch, "finetune", str(run), "--resume") == 1
    assert "holds no interrupted finetuning" in capsys.readouterr().err
    assert command(monkeypatch, "finetune", str(run), "--resume", "--lr", "0.1") == 1
    assert "--resume with --lr" in capsys.readouterr().err
