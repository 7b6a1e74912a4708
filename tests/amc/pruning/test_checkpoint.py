"""Saved networks: bit-equal after loading, and nothing of others' is run or half believed."""

from __future__ import annotations

import copy
import json
import pickle
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
from amc.cost.table import CostTable
from amc.errors import ModelError
from amc.models.factory import build_model
from amc.models.weights import tensors_sha256
from amc.pruning.checkpoint import load_model, save_model
from amc.pruning.find_units import find_units, read_units
from amc.pruning.plan import Plan, plan_of
from amc.pruning.slicing.slice import slice_model
from amc.tracing.trace import named_tensors


def plan_with(units, widths, config: ModelConfig | None) -> Plan:
    return plan_of(CostTable(units), widths, weights_sha256="0" * 64, model=config)


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
    """Save the file again after ``change``, its hash made to fit as a forger would."""
    with safe_open(path, framework="pt") as file:
        content = Content(
            {name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118
            json.loads(file.metadata()["amc"]),
        )
    content.card["tensors_sha256"] = None
    change(content)
    content.card["tensors_sha256"] = tensors_sha256(content.tensors)
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


def test_a_flipped_bit_among_the_weights_is_noticed(saved):
    content = bytearray(saved.read_bytes())
    content[-2] ^= 1  # the tensors are the file's end
    saved.write_bytes(content)
    with pytest.raises(ModelError, match="damaged: its tensors are not those that were saved"):
        load_model(saved)


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


def test_a_pickle_under_our_name_is_not_opened(tmp_path):
    path, target = tmp_path / "model.safetensors", tmp_path / "ran"
    for write in (lambda bomb: torch.save(bomb, path), lambda b: path.write_bytes(pickle.dumps(b))):
        write(Bomb(target))
        with pytest.raises(ModelError, match="not a readable safetensors file"):
            load_model(path)
    assert not target.exists()


def test_what_timm_would_load_is_left_alone(tmp_path):
    pytest.importorskip("timm")
    path, weights, target = (tmp_path / name for name in ("model.safetensors", "w.pth", "ran"))
    torch.save(Bomb(target), weights)
    model, x = build_model(ModelConfig(spec="timm:test_resnet")), torch.ones(1, 3, 32, 32)
    arguments = {"pretrained": True, "checkpoint_path": str(weights)}
    config = ModelConfig(spec="timm:test_resnet", arguments=arguments)
    units = read_units(model, x)
    save_model(model, plan_with(units, units.dense_widths, config), path)
    loaded, card = load_model(path)  # and nothing was downloaded
    assert torch.equal(loaded(x), model(x))
    assert card.model == config
    assert not target.exists()


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
        (
            lambda d: d.card["plan"]["units"][0].update(kept=[0, 0]),
            "damaged metadata: plan.units.0",
        ),
        (lambda d: d.card["model"].update(spec="amc:resnet20"), "does not fit its factory: "),
        (lambda d: d.card["model"].update(spec="torchvision:alexnet"), "does not fit its factory"),
        (
            lambda d: d.card["model"].update(spec="amc:nothing"),
            r"model\.safetensors cannot be rebuilt: amc has no model 'nothing'",
        ),
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
        (
            lambda d: d.tensors.update({"bn1.weight": torch.ones(0)}),
            r"its plan leaves [\d,]+ parameters, its tensors hold [\d,]+",
        ),
        (
            lambda d: d.tensors.update({"bn1.weight": d.tensors["bn1.weight"].long()}),
            "bn1.weight is torch.int64, the factory's torch.float32",
        ),
        (
            lambda d: d.tensors.update({"bn1.weight": torch.ones(1)}),
            r"its plan leaves [\d,]+ parameters, its tensors hold [\d,]+",
        ),
        (lambda d: d.card["plan"]["costs"].update(params=5), "its plan leaves 5 parameters"),
        (lambda d: d.card["plan"].update(input_shape=[-1]), "damaged metadata: plan.input_shape"),
    ],
    ids=range(19),
)
def test_files_that_do_not_fit(saved, change, message):
    rewrite(saved, change)
    with pytest.raises(ModelError, match=message):
        load_model(saved)


@pytest.mark.parametrize(
    "card",
    ["[]", "null", "{", "3", '"text"', "[" * 100_000, '{"format": ' + "1" * 5000 + "}"],
    ids=range(7),
)
def test_metadata_of_another_shape(saved, card):
    save_file({"weight": torch.ones(2)}, saved, {"amc": card})
    with pytest.raises(ModelError, match="damaged metadata"):
        load_model(saved)


def test_weights_named_in_the_metadata_are_not_read(saved):
    rewrite(saved, lambda d: d.card["model"].update(weights="/does/not/exist.pth"))
    load_model(saved)


FACTORY = """
from pathlib import Path
import torch
from torch import nn

Path(__file__).with_name("ran").touch()

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 1)
        self.first = self.again = nn.Conv2d(6, 6, 1)
        self.tied = nn.Conv2d(6, 6, 1, bias=False)
        self.tied.weight = self.first.weight
        self.head = nn.Conv2d(6, 2, 1)
        self.listed = [self.first.weight]
        self.head.bias.requires_grad_(False)
        self.register_buffer("gain", torch.rand(6, 1, 1), persistent=False)
        self.register_buffer("shift", torch.rand(2, 1, 1), persistent=False)
        self.register_buffer("steps", torch.tensor(7))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("phase", torch.tensor([1 + 2j]))

    def forward(self, x):
        x = self.gain * self.again(torch.relu(self.first(self.stem(x))))
        return self.head(self.tied(x)) + self.shift

def make():
    return Net()
"""


@pytest.fixture
def mine(tmp_path) -> str:
    """A factory of the user's, in a file that leaves a trace when it is run."""
    (tmp_path / "mine.py").write_text(FACTORY)
    return f"{tmp_path / 'mine.py'}:make"


def save_mine(spec: str, path: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The user's network with 4 of its 6 channels, saved."""
    model = build_model(ModelConfig(spec=spec))
    for _, tensor in named_tensors(model):
        if tensor.is_floating_point():  # module.to would make the complex one real
            tensor.data = tensor.data.to(dtype)
    units = read_units(model, torch.ones(1, 3, 2, 2, dtype=dtype))
    assert [unit.width for unit in units] == [6]
    small = slice_model(model, units, [4])
    save_model(small, plan_with(units, [4], ModelConfig(spec=spec)), path)
    return small


DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_users_own_network_comes_back_bit_by_bit(mine, tmp_path, dtype):
    small = save_mine(mine, tmp_path / "model.safetensors", dtype)
    loaded, _ = load_model(tmp_path / "model.safetensors", allow_factory=True)
    stored = dict(loaded.named_parameters()) | dict(loaded.named_buffers())
    for name, tensor in [*small.named_parameters(), *small.named_buffers()]:
        assert stored[name].dtype == tensor.dtype
        assert torch.equal(stored[name], tensor), name
        assert stored[name].requires_grad == tensor.requires_grad
    # Neither is in a state dict: the first was sliced, the second drawn by the factory.
    assert (loaded.gain.shape, loaded.shift.shape) == ((4, 1, 1), (2, 1, 1))
    assert loaded.state_dict().keys() == small.state_dict().keys()
    assert loaded.again is loaded.first
    assert loaded.first.weight is loaded.tied.weight is loaded.listed[0]
    x = torch.randn(3, 3, 5, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(loaded(x), small(x))


def test_a_users_python_file_runs_only_when_allowed(mine, tmp_path):
    path, trace = tmp_path / "model.safetensors", tmp_path / "ran"
    save_mine(mine, path)
    trace.unlink()
    with pytest.raises(ModelError, match=r"mine\.py.*--allow-factory"):
        load_model(path)
    assert not trace.exists()
    load_model(path, allow_factory=True)
    assert trace.exists()


def test_a_factory_that_is_gone_or_has_changed(mine, tmp_path):
    path, file = tmp_path / "model.safetensors", tmp_path / "mine.py"
    save_mine(mine, path)
    for text, message in {
        FACTORY.replace("def make", "def made"): r"cannot be rebuilt.*no function 'make'; .*made",
        FACTORY.replace("mask", "other"): "does not fit its factory: mask is on one side only",
        FACTORY.replace("Conv2d(6, 2, 1)", "Conv2d(6, 1, 1)"): r"head.bias has shape \(2,\)",
        FACTORY + "raise ValueError('old')": "cannot be rebuilt.*raised ValueError: old",
    }.items():
        file.write_text(text)
        with pytest.raises(ModelError, match=message):
            load_model(path, allow_factory=True)
    file.unlink()
    with pytest.raises(ModelError, match=r"cannot be rebuilt: .*mine\.py: no such file"):
        load_model(path, allow_factory=True)


@pytest.mark.parametrize("spec", ["{}:make", "./{}:make", "~/{}:make", "{}:"])
def test_no_spelling_of_a_python_file_slips_through(saved, spec):
    file = saved.with_name("mine.py")
    file.write_text(FACTORY)
    rewrite(saved, lambda d: d.card["model"].update(spec=spec.format(file)))
    with pytest.raises(ModelError):
        load_model(saved)
    assert not saved.with_name("ran").exists()


def test_what_cannot_be_saved_leaves_the_older_file(subject, saved):
    before = saved.read_bytes()
    s = subject("smallcnn")
    odd = copy.deepcopy(s.model)
    odd.register_buffer("odd", torch.eye(2).to_sparse())
    with pytest.raises(ModelError, match="cannot be written: "):
        save_model(odd, plan_with(s.units, s.units.dense_widths, s.config), saved)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_network_with_fewer_heads_comes_back_with_its_sizes(tmp_path):
    config = ModelConfig(spec="timm:test_vit")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build_model(config)
    x = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    units = find_units(model, x)
    widths = [unit.width // 2 for unit in units]
    small = slice_model(model, units, widths)
    plan = plan_with(units, widths, config)
    assert plan.sizes["blocks.0.attn.num_heads"] == model.blocks[0].attn.num_heads // 2
    save_model(small, plan, tmp_path / "small.safetensors")
    loaded, _ = load_model(tmp_path / "small.safetensors")
    with torch.inference_mode():
        assert torch.equal(loaded(x), small(x))
    for name in ("blocks.0.attn.nothing", "blocks.0.attn.scale", "nowhere.size"):
        foreign = plan.model_copy(update={"sizes": {name: 1}})
        save_model(small, foreign, tmp_path / "foreign.safetensors")
        with pytest.raises(ModelError, match=f"does not fit its factory: {name}"):
            load_model(tmp_path / "foreign.safetensors")
