"""Saved networks: bit-equal after loading, and nothing of others' is run or half believed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from amc.config import ModelConfig
from amc.errors import ModelError
from amc.export import load_model, save_model
from amc.find import read_units
from amc.networks import NETWORKS
from amc.plan import Plan, plan_of
from amc.slim import slice_model


def plan_with(units, widths, config: ModelConfig | None) -> Plan:
    return plan_of(units, widths, macs=(1, 2), params=(1, 2), weights_sha256="0" * 64, model=config)


def save(s, path: Path, seed: int = 0) -> tuple[nn.Module, Plan]:
    """A random slice of a subject, and its plan."""
    widths = np.random.default_rng(seed).integers(1, s.units.dense_widths).tolist()
    small = slice_model(s.model, s.units, widths)
    plan = plan_with(s.units, widths, s.config)
    save_model(small, plan, path, finetuned_epochs=3)
    return small, plan


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "mobilenet_v3_small", "densenet121"])
def test_a_network_comes_back_bit_by_bit(subject, tmp_path, name):
    s = subject(name)
    path = tmp_path / "model.safetensors"
    small, plan = save(s, path)
    loaded, card = load_model(path)
    assert (card.plan, card.model, card.finetuned_epochs) == (plan, s.config, 3)
    assert loaded.state_dict().keys() == small.state_dict().keys()
    for key, tensor in small.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor)
    assert not any(m.training for m in loaded.modules())
    assert all(p.requires_grad for p in loaded.parameters())
    assert torch.equal(loaded(s.inputs), small(s.inputs))
    assert repr(loaded) == repr(small)  # the modules state their sizes
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_a_loaded_network_can_be_cut_again(subject, tmp_path):
    s = subject("mobilenet_v2")
    path = tmp_path / "model.safetensors"
    save(s, path)
    loaded, _ = load_model(path)
    units = read_units(loaded, s.inputs)
    half = [max(1, unit.width // 2) for unit in units]
    assert slice_model(loaded, units, half)(s.inputs).shape == (2, 10)


def test_a_network_without_a_factory_is_not_saved(subject, tmp_path):
    s = subject("smallcnn")
    plan = plan_with(s.units, s.units.dense_widths, None)
    with pytest.raises(ModelError, match="give its factory to save it"):
        save_model(s.model, plan, tmp_path / "model.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def saved(subject, tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    save(subject("smallcnn"), path)
    return path


@dataclass
class Content:
    """What a saved file holds."""

    tensors: dict[str, torch.Tensor]
    card: dict[str, Any]


def rewrite(path: Path, change: Callable[[Content], object]) -> None:
    """Save the file again after ``change``."""
    with safe_open(path, framework="pt") as file:
        content = Content(
            {name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118
            json.loads(file.metadata()["amc"]),
        )
    change(content)
    save_file(content.tensors, path, {"amc": json.dumps(content.card)})


def test_damaged_files(saved):
    content = saved.read_bytes()
    for length in (0, 5, 8, 100, len(content) // 2, len(content) - 1):
        saved.write_bytes(content[:length])
        with pytest.raises(ModelError, match="not a readable safetensors file"):
            load_model(saved)
    saved.write_bytes(b"\xff" * len(content))
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_model(saved)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ModelError, match=r"none\.safetensors: no such file"):
        load_model(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="not a readable safetensors file"):
        load_model(tmp_path)


def test_foreign_files(saved):
    save_file({"weight": torch.ones(2)}, saved)
    with pytest.raises(ModelError, match="holds weights only; it was not saved by this project"):
        load_model(saved)
    save_file({"weight": torch.ones(2)}, saved, {"format": "pt"})
    with pytest.raises(ModelError, match="holds weights only"):
        load_model(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d.card.update(format="amc.model/2"),
            "format 'amc.model/2' is not 'amc.model/1'",
        ),
        (lambda d: d.card.pop("format"), "format None is not 'amc.model/1'"),
        (lambda d: d.card.pop("plan"), "damaged metadata: plan: Field required"),
        (lambda d: d.card.update(other=1), "damaged metadata: other: Extra inputs"),
        (lambda d: d.card["plan"]["units"][0].update(kept=[]), "damaged metadata: plan.units.0"),
        (lambda d: d.card["model"].update(spec="amc:resnet20"), "does not fit its factory: "),
        (lambda d: d.card["model"].update(spec="amc:nothing"), "amc has no model 'nothing'"),
        (lambda d: d.card["model"].update(arguments={"depth": 3}), "depth"),
        (
            lambda d: d.card["model"].update(arguments={"num_classes": 5}),
            r"linear.* has shape \(10",
        ),
        (lambda d: d.tensors.pop("linear.bias"), "does not fit.*: linear.bias is on one side only"),
        (
            lambda d: d.tensors.update(extra=torch.ones(1)),
            "does not fit.*: extra is on one side only",
        ),
        (
            lambda d: d.tensors.update({"bn1.weight": torch.ones(99)}),
            r"bn1.weight has shape \(99,\)",
        ),
        (
            lambda d: d.tensors.update({"bn1.weight": torch.ones(1, 1)}),
            r"bn1.weight has shape \(1, 1\)",
        ),
    ],
    ids=range(13),
)
def test_files_that_do_not_fit(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(ModelError, match=message):
        load_model(saved)


@pytest.mark.parametrize("card", ["[]", "null", "{", "3", '"text"'])
def test_metadata_of_another_shape(saved, card):
    save_file({"weight": torch.ones(2)}, saved, {"amc": card})
    with pytest.raises(ModelError, match="damaged metadata"):
        load_model(saved)


def test_weights_named_in_the_metadata_are_not_read(saved):
    rewrite(saved, lambda d: d.card["model"].update(weights="/does/not/exist.pth"))
    load_model(saved)


FACTORY = """
from pathlib import Path
from torch import nn

Path(__file__).with_name("ran").touch()

def make():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
"""


def test_a_users_python_file_runs_only_when_allowed(tmp_path):
    file, path = tmp_path / "mine.py", tmp_path / "model.safetensors"
    file.write_text(FACTORY)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    x = torch.ones(1, 3, 2, 2)
    units = read_units(model, x)
    small = slice_model(model, units, [3])
    save_model(small, plan_with(units, [3], ModelConfig(spec=f"{file}:make")), path)
    with pytest.raises(ModelError, match=r"mine\.py"):
        load_model(path)
    assert not (tmp_path / "ran").exists()
    loaded, _ = load_model(path, allow_factory=True)
    assert (tmp_path / "ran").exists()
    assert torch.equal(loaded(x), small(x))


@pytest.mark.parametrize("spec", ["{}:make", "./{}:make", "~/{}:make", "{}:"])
def test_no_spelling_of_a_python_file_slips_through(saved, spec):
    file = saved.with_name("mine.py")
    file.write_text(FACTORY)
    rewrite(saved, lambda d: d.card["model"].update(spec=spec.format(file)))
    with pytest.raises(ModelError):
        load_model(saved)
    assert not saved.with_name("ran").exists()


class Tied(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.first = nn.Conv2d(4, 4, 1)
        self.second = self.first
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.second(torch.relu(self.first(self.stem(x)))))
        return result


def test_tied_layers_stay_tied(tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "tied", Tied)
    model, x, path = Tied(), torch.ones(1, 3, 2, 2), tmp_path / "model.safetensors"
    units = read_units(model, x)
    small = slice_model(model, units, [3])
    assert small.second is small.first
    save_model(small, plan_with(units, [3], ModelConfig(spec="amc:tied")), path)
    loaded, _ = load_model(path)
    assert loaded.second is loaded.first
    assert torch.equal(loaded(x), small(x))
    assert sum(p.numel() for p in loaded.parameters()) == sum(p.numel() for p in small.parameters())
