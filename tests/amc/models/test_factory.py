"""Specs that resolve, specs that explain themselves, and weights that cannot hurt."""

import pickle
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from amc.config import ModelConfig
from amc.errors import ModelError, WeightsError
from amc.models.architectures import NETWORKS
from amc.models.factory import build_model
from amc.models.weights import load_weights

USER_FILE = """
from torch import nn
from neighbour import WIDTH

def make(width=WIDTH, num_classes=10):
    return nn.Sequential(nn.Linear(3, width), nn.Linear(width, num_classes))

def refuse():
    raise OSError("no disk")

def number():
    return 5
"""


@pytest.fixture
def user_file(tmp_path: Path) -> Path:
    (tmp_path / "neighbour.py").write_text("WIDTH = 4\n")
    path = tmp_path / "mine.py"
    path.write_text(USER_FILE)
    return path


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS["smallcnn"]().eval()


def same(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


def test_arguments_beat_defaults_and_defaults_fit_the_factory(user_file: Path) -> None:
    spec = f"{user_file}:make"
    built = build_model(
        ModelConfig(spec=spec, arguments={"width": 6}), num_classes=3, in_channels=1
    )
    assert [(layer.in_features, layer.out_features) for layer in built] == [(3, 6), (6, 3)]
    built = build_model(ModelConfig(spec=spec, arguments={"num_classes": 2}), num_classes=3)
    assert built[1].out_features == 2
    assert not built.training
    assert str(user_file.parent) not in sys.path


def test_torchvision_and_timm_names() -> None:
    built = build_model(ModelConfig(spec="torchvision:resnet18"), num_classes=5, in_channels=1)
    assert built.fc.out_features == 5
    timm = pytest.importorskip("timm")
    built = build_model(ModelConfig(spec="timm:resnet18"), num_classes=5, in_channels=1)
    assert (built.conv1.in_channels, built.fc.out_features) == (1, 5)
    assert isinstance(built, timm.models.ResNet)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("amc:resnet21", ["resnet21", "resnet20"]),
        ("torchvision:resnet51", ["resnet51", "resnet50"]),
        ("timm:resnet51", ["resnet51", "resnet50"]),
        ("resnet20", ["resnet20", "amc:NAME", "file.py:function"]),
        ("nowhere.py:make", ["nowhere.py", "no such file"]),
    ],
)
def test_unknown_specs_name_the_remedy(spec: str, words: list[str]) -> None:
    with pytest.raises(ModelError) as caught:
        build_model(ModelConfig(spec=spec))
    assert all(word in str(caught.value) for word in words)


def test_missing_timm_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"pip install amc-agent\[timm\]"):
        build_model(ModelConfig(spec="timm:resnet18"))


def test_faults_of_a_users_file_are_explained(user_file: Path, tmp_path: Path) -> None:
    for function, words in {
        "mak": "'mak'.*make",
        "refuse": "OSError: no disk",
        "number": "returned int",
    }.items():
        with pytest.raises(ModelError, match=words):
            build_model(ModelConfig(spec=f"{user_file}:{function}"))
    with pytest.raises(ModelError, match=r"depth=3.*TypeError"):
        build_model(ModelConfig(spec=f"{user_file}:make", arguments={"depth": 3}))
    (tmp_path / "broken.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(ModelError, match="nothing_of_that_name"):
        build_model(ModelConfig(spec=f"{tmp_path / 'broken.py'}:make"))


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "model", "module."])
def test_weights_come_back_from_every_form(model: nn.Module, tmp_path: Path, wrap: str) -> None:
    state = model.state_dict()
    path = tmp_path / "w.pth"
    if wrap == "plain":
        path = tmp_path / "w.safetensors"
        save_file(state, path)
    elif wrap == "module.":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        torch.save({wrap: state, "epoch": 3}, path)
    loaded = build_model(ModelConfig(spec="amc:smallcnn", weights=str(path)))
    assert same(model, loaded)


def test_weights_without_batchnorm_counters_fit(model: nn.Module, tmp_path: Path) -> None:
    state = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    save_file(state, tmp_path / "w.safetensors")
    loaded = build_model(ModelConfig(spec="amc:smallcnn"))
    load_weights(loaded, tmp_path / "w.safetensors")
    assert same(model, loaded)


def test_misfits_are_named_and_leave_the_model_alone(model: nn.Module, tmp_path: Path) -> None:
    state = dict(model.state_dict())
    for name in [name for name in state if name.startswith("block.")]:
        state[f"extra.{name}"] = state.pop(name)
    state["linear.weight"] = torch.zeros(3, 64)
    save_file(state, tmp_path / "w.safetensors")
    fresh = NETWORKS["smallcnn"]()
    before = {name: tensor.clone() for name, tensor in fresh.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_weights(fresh, tmp_path / "w.safetensors")
    text = str(caught.value)
    assert "missing 10: block.conv1.weight" in text
    assert "unexpected 10: extra.block." in text
    assert "shape 1: linear.weight (3, 64) for (10, 64)" in text
    assert all(torch.equal(before[name], tensor) for name, tensor in fresh.state_dict().items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_named(
    model: nn.Module, tmp_path: Path, value: float
) -> None:
    state = dict(model.state_dict())
    state["bn2.running_var"] = state["bn2.running_var"].clone()
    state["bn2.running_var"][3] = value
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"bn2\.running_var.*not finite"):
        load_weights(model, tmp_path / "w.safetensors")


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.target,)


def test_a_weights_file_executes_nothing(model: nn.Module, tmp_path: Path) -> None:
    target = tmp_path / "touched"
    torch.save({"state_dict": model.state_dict(), "bomb": Bomb(target)}, tmp_path / "new.pth")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Bomb(target), protocol=2))
    torch.save(model, tmp_path / "model.pth")
    for name in ("new.pth", "old.pt", "model.pth"):
        with pytest.raises(WeightsError, match=r"save model\.state_dict\(\)"):
            load_weights(model, tmp_path / name)
    assert not target.exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_damaged_files_are_weights_errors(model: nn.Module, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save(model.state_dict(), path)
    else:
        save_file(model.state_dict(), path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\x00" * 100, b"hello"):
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=path.name):
            load_weights(model, path)


def test_other_contents_are_refused(model: nn.Module, tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(WeightsError, match="holds list"):
        load_weights(model, tmp_path / "list.pth")
    torch.save({"epoch": 3, "optimizer": {}}, tmp_path / "numbers.pth")
    with pytest.raises(WeightsError, match="2: epoch, optimizer"):
        load_weights(model, tmp_path / "numbers.pth")
    with pytest.raises(WeightsError, match="no such weights file"):
        load_weights(model, tmp_path / "absent.pth")
    (tmp_path / "w.txt").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"must end in \.safetensors"):
        load_weights(model, tmp_path / "w.txt")
