"""The first lines of the commands, and that a run keeps to the preprocessing that it found."""

import pytest
import torch
from safetensors.torch import save_file

from amc.models.factory import import_file
from amc.pruning.checkpoint import read_card
from amc.records.run_folder import RunFolder
from tests import brightness
from tests.amc.cli.test_app import run


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The current folder has ``bright.py``, its trained weights in ``w.safetensors``, and
    ``images``."""
    monkeypatch.chdir(tmp_path)
    file = import_file(brightness.net_file(tmp_path))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(brightness.trained(file.make()).state_dict(), "w.safetensors")
    brightness.image_folder(tmp_path / "images", 1000)
    return tmp_path


def arguments(factory, *others):
    return (
        *("search", f"bright.py:{factory}", "--weights", "w.safetensors"),
        *("--data", "imagefolder:images", "--search-val", "0.3", "--no-bf16"),
        *("--agent", "random", "--episodes", "2", "--epochs", "0", *others),
    )


def first_lines(out):
    """What stands before the run's folder."""
    return out[: out.index("run folder")].splitlines()


@pytest.mark.usefixtures("trained")
def test_an_own_network_is_told_how_to_see(monkeypatch, capsys):
    """Trained with .5 and .5: what is taken for it is said first, and that it is worse."""
    code, out, error = run(monkeypatch, capsys, *arguments("make", "--run", "first"))
    assert code == 0, error
    prepared, _, dense, *warnings = first_lines(out)
    assert prepared == (
        "preprocessing  mean .485,.456,.406, std .229,.224,.225 (the data set's); images as stored,"
        " 8x8 px; override with --mean --std --image-size --crop-pct --interpolation"
    )
    assert dense.startswith("dense       accuracy ")
    assert " on 300 search-val images, " in dense
    (found,) = [line for line in warnings if "--mean" in line]
    assert found.startswith("warning     --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 (")

    options = found.split()[1:5]
    code, out, _ = run(monkeypatch, capsys, *arguments("make", *options, "--run", "second"))
    assert code == 0
    lines = first_lines(out)
    assert lines[0].startswith("preprocessing  mean .5,.5,.5, std .5,.5,.5 (yours); images as")
    assert lines[2].startswith("dense       accuracy 100.00% on 300")
    assert len(lines) == 3


def test_a_run_keeps_what_the_network_said(monkeypatch, capsys, trained):
    code, out, error = run(monkeypatch, capsys, *arguments("told", "--run", "run"))
    assert code == 0, error
    prepared, _, dense = first_lines(out)
    assert "mean .5,.5,.5, std .5,.5,.5 (the model's pretrained_cfg)" in prepared
    assert "100.00%" in dense
    recorded = RunFolder(trained / "run").load_config().data
    assert (recorded.mean, recorded.std) == ((0.5,) * 3, (0.5,) * 3)
    assert (recorded.image_size, recorded.crop_pct) == (None, 1.0)
    seen = read_card(trained / "run" / "pruned.safetensors").preparation
    assert (seen.mean, seen.std, seen.image_size) == ((0.5,) * 3, (0.5,) * 3, None)
    # What the network says now is not what the run began with.
    net = trained / "bright.py"
    net.write_text(net.read_text().replace("(0.5, 0.5, 0.5)", "(0.1, 0.1, 0.1)"))
    allowed = "--allow-factory"
    for command in (
        ("search", "--resume", "run", "--episodes", "3", allowed),
        ("apply", "run", allowed),
    ):
        code, out, error = run(monkeypatch, capsys, *command)
        assert code == 0, error
        lines = out.splitlines()
        assert lines[0].startswith("preprocessing  mean .5,.5,.5, std .5,.5,.5 (the run's)")
        assert lines[2].startswith("dense       accuracy 100.00% on 300 search-val images")


def test_a_run_from_before_asks_no_network(monkeypatch, capsys, trained):
    """It was prepared as the data set says, and recorded nothing of it."""
    imagenet = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
    code, _, error = run(monkeypatch, capsys, *arguments("told", "--run", "old", *imagenet))
    assert code == 0, error
    folder = RunFolder(trained / "old")
    config = folder.load_config()
    fields = ("mean", "std", "crop_pct", "interpolation")
    data = config.data.model_copy(update=dict.fromkeys(fields))
    folder.save_config(config.model_copy(update={"data": data}))
    command = ("search", "--resume", "old", "--episodes", "3", "--allow-factory")
    code, out, error = run(monkeypatch, capsys, *command)
    assert code == 0, error  # its images have the recorded hash
    assert out.startswith("preprocessing  mean .485,.456,.406, std .229,.224,.225 (the data set's)")
    assert folder.load_config().data.mean is None


@pytest.mark.parametrize(
    ("factory", "words"),
    [("few", "has 3 outputs"), ("named", "returns a dict"), ("sized", "--image-size")],
)
def test_a_network_for_other_images_is_one_line(monkeypatch, capsys, tmp_path, factory, words):
    monkeypatch.chdir(tmp_path)
    brightness.net_file(tmp_path)
    brightness.image_folder(tmp_path / "images", 40, 8)
    command = ("search", f"bright.py:{factory}", "--data", "imagefolder:images", "--run", "run")
    code, _, error = run(monkeypatch, capsys, *command)
    assert code == 1
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in error
    assert f"bright.py:{factory} " in line
    assert words in line
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("trained")
def test_compare_and_replay_say_it_too(monkeypatch, capsys):
    named = ("bright.py:told", "--weights", "w.safetensors", "--data", "imagefolder:images")
    small = ("--images", "50", "--no-bf16")
    commands = [
        ("compare", *named, *small, "--agents", "uniform", "--seeds", "1", "--evaluations", "2"),
        ("replay", "first/plan.json", *named, *small, "--run", "again", "--allow-factory"),
    ]
    code, _, error = run(monkeypatch, capsys, *arguments("told", "--run", "first"))
    assert code == 0, error
    for command in commands:
        code, out, error = run(monkeypatch, capsys, *command)
        assert code == 0, error
        assert out.startswith("preprocessing  mean .5,.5,.5")
        assert out.splitlines()[2].startswith("dense       accuracy 100.00% on 50 search-val")
