"""Files of weights as training scripts leave them, read without running anything."""

from __future__ import annotations

import argparse
import collections
import datetime
import fractions
import pathlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from amc.config import ModelConfig
from amc.errors import WeightsError
from amc.models.factory import build_resolved
from amc.models.weights import load_weights

State = dict[str, Tensor]


def net(seed: int = 0, classes: int = 5) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, classes)
    )


def other(state: State) -> State:
    return {name: x + 1 for name, x in state.items()}


def under(prefix: str, state: State) -> State:
    return {prefix + name: x for name, x in state.items()}


def inside(state: State) -> State:
    """As a network saves it of which a part was wrapped: ``0._orig_mod.weight``."""
    return {name.replace(".", "._orig_mod.", 1): x for name, x in state.items()}


class Odd(np.ndarray):
    """A subclass: pickled by its own name."""


FILES: dict[str, Callable[[State], Any]] = {
    "plain": lambda s: s,
    "lightning": lambda s: {"state_dict": under("model.", s), "epoch": 3, "callbacks": {"a": {}}},
    "beside": lambda s: {"net": s, "optimizer": torch.optim.Adam([torch.ones(3)]).state_dict()},
    "deep": lambda s: {"network": {"module": {"weights": s}}},
    "unheard of": lambda s: {"generator_43": under("module._orig_mod.model.backbone.", s)},
    "wrapped parts": inside,
    "wrapped everywhere": lambda s: {"model": under("_orig_mod.module.", inside(s))},
    "averaged": lambda s: {"n_averaged": torch.tensor(3), **under("module.", s)},
    "thop": lambda s: {**s, "total_ops": torch.zeros(1), "3.total_params": torch.zeros(1)},
    "no counter": lambda s: {n: x for n, x in s.items() if not n.endswith("tracked")},
    "numpy": lambda s: {"state_dict": {n: x.numpy() for n, x in s.items()}},
    "columns": lambda s: {n: np.array(x.numpy(), order="F") for n, x in s.items()},
    "big-endian": lambda s: {
        n: x.numpy().astype(x.numpy().dtype.newbyteorder(">")) for n, x in s.items()
    },
    "numbers": lambda s: {
        **{"model": s, "best": np.float64(93.1), "seen": np.int64(3), "name": np.str_("x")},
        **{"args": argparse.Namespace(lr=0.1, out=pathlib.Path("runs")), "rng": np.arange(4)},
        **{"history": collections.defaultdict(list, a=[1]), "last": collections.deque([1, 2])},
        **{"when": datetime.datetime(2020, 1, 1), "names": np.array(["a", None], dtype=object)},
    },
    "double": lambda s: {n: x.double() if x.is_floating_point() else x for n, x in s.items()},
    "criterion": lambda s: {**under("model.", s), "criterion.weight": torch.ones(5)},
}


@pytest.mark.parametrize("form", FILES)
def test_weights_come_back_from_every_form(form: str, tmp_path: Path) -> None:
    expected, loaded = net().state_dict(), net(1)
    torch.save(FILES[form](expected), tmp_path / "w.pth")
    notes = load_weights(loaded, tmp_path / "w.pth")
    found = loaded.state_dict()
    assert all(
        torch.equal(x, expected[name]) and x.dtype == expected[name].dtype
        for name, x in found.items()
    )
    assert (form == "criterion") == any("criterion.weight" in note for note in notes)


@pytest.mark.parametrize("ending", ["safetensors", "pth.tar", "ckpt", "bin"])
def test_old_and_new_containers(ending: str, tmp_path: Path) -> None:
    expected, loaded, path = net().state_dict(), net(1), tmp_path / f"w.{ending}"
    if ending == "safetensors":
        save_file(under("_orig_mod.module.", expected), path)
    else:
        torch.save(expected, path, _use_new_zipfile_serialization=ending == "ckpt")
    load_weights(loaded, path)
    assert all(torch.equal(x, expected[name]) for name, x in loaded.state_dict().items())


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_other_precisions_become_the_networks_own(kind: torch.dtype, tmp_path: Path) -> None:
    half = {n: x.to(kind) if x.is_floating_point() else x for n, x in net().state_dict().items()}
    save_file(half, tmp_path / "w.safetensors")
    loaded = net(1)
    load_weights(loaded, tmp_path / "w.safetensors")
    for name, x in loaded.state_dict().items():
        assert x.dtype == net().state_dict()[name].dtype
        assert torch.equal(x, half[name].to(x.dtype))


@pytest.mark.parametrize(
    ("raw", "average"),
    [("model", "ema"), ("state_dict", "state_dict_ema"), ("net", "model_ema"), ("model", "swa")],
)
def test_the_average_is_taken_unless_the_user_says(raw: str, average: str, tmp_path: Path) -> None:
    weights = net().state_dict()
    path = tmp_path / "w.pth"
    torch.save({raw: weights, average: under("module.", other(weights))}, path)
    loaded = net(1)
    (note,) = load_weights(loaded, path)
    assert f"({average}.module) is taken" in note
    assert torch.equal(loaded[0].weight, weights["0.weight"] + 1)
    assert load_weights(loaded, f"{path}#{raw}") == ()
    assert torch.equal(loaded[0].weight, weights["0.weight"])
    with pytest.raises(WeightsError, match="no tensors under 'nobody'"):
        load_weights(loaded, f"{path}#nobody")


def test_an_average_that_does_not_fit_is_no_choice(tmp_path: Path) -> None:
    weights = net().state_dict()
    torch.save({"model": weights, "ema": net(classes=7).state_dict()}, tmp_path / "w.pth")
    loaded = net(1)
    assert load_weights(loaded, tmp_path / "w.pth") == ()
    assert torch.equal(loaded[0].weight, weights["0.weight"])


def test_two_networks_in_a_file_are_not_guessed_between(tmp_path: Path) -> None:
    weights, loaded = net().state_dict(), net(1)
    path = tmp_path / "w.pth"
    torch.save({**under("student.", weights), **under("teacher.", other(weights))}, path)
    with pytest.raises(WeightsError, match=r"2: student, teacher.*w\.pth#teacher"):
        load_weights(loaded, path)
    load_weights(loaded, f"{path}#teacher")
    assert torch.equal(loaded[0].weight, weights["0.weight"] + 1)
    torch.save({"model": weights, "best": dict(weights)}, path)  # the same twice is no choice
    assert load_weights(loaded, path) == ()


def test_a_larger_network_does_not_fit_a_smaller_one(tmp_path: Path) -> None:
    """Its names and shapes hold all of the smaller one's, as ResNet-34's those of ResNet-18."""
    torch.save(
        under("module.", {**net().state_dict(), "4.weight": torch.ones(2)}), tmp_path / "w.pth"
    )
    with pytest.raises(WeightsError, match=r"unexpected 1: 4\.weight"):
        load_weights(net(1), tmp_path / "w.pth")


def test_another_number_of_classes_is_said_plainly(tmp_path: Path) -> None:
    torch.save({"state_dict": under("module.", net(classes=100).state_dict())}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"has 100 outputs, the model's 5.*num_classes=100"):
        load_weights(net(), tmp_path / "w.pth")


def test_names_that_the_modules_know_from_before_are_loaded(tmp_path: Path) -> None:
    """Weight norm's old names, which its new form translates itself."""

    def normed(make: Any) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(make(nn.Conv2d(1, 4, 3)), nn.Linear(4, 2))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        old = normed(nn.utils.weight_norm)
    with torch.no_grad():
        old[0].weight_g.mul_(2)
    torch.save(old.state_dict(), tmp_path / "w.pth")
    new = normed(parametrizations.weight_norm)
    load_weights(new, tmp_path / "w.pth")
    x = torch.randn(2, 1, 3, 3)
    torch.testing.assert_close(new[0](x), old[0](x))
    wrong = {**old.state_dict(), "0.weight_g": torch.ones(4)}
    torch.save(wrong, tmp_path / "w.pth")
    before = {name: y.clone() for name, y in new.state_dict().items()}
    with pytest.raises(WeightsError, match="does not fit"):
        load_weights(new, tmp_path / "w.pth")
    assert all(torch.equal(y, before[name]) for name, y in new.state_dict().items())


def refused(path: Path) -> str:
    """The message, one line of bounded length; the network is as it was."""
    model = net(1)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_weights(model, path)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    text = str(caught.value).replace(str(path.parent), "")
    assert text.isprintable()
    assert len(text) < 500
    return text


def test_what_only_code_could_rebuild_is_refused_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(net(), path)
    assert "torch.nn.modules" in refused(path)
    torch.save({"model": net().state_dict(), "best": fractions.Fraction(1, 3)}, path)
    assert "fractions.Fraction" in refused(path)
    torch.save({"a": np.zeros(3).view(Odd)}, path)
    assert "Odd" in refused(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(net()), path)
    assert "torch.jit.load" in refused(path)


def test_numpys_own_code_never_sees_what_a_file_says_of_types(tmp_path: Path) -> None:
    """An object array made of bytes would be pointers that the file has chosen."""

    class Pointers:
        def __reduce__(self) -> Any:
            scalar = np.float64(0).__reduce__()[0]
            return scalar, (np.dtype("O"), b"\x41" * 8)

    torch.save({"model": net().state_dict(), "bad": Pointers()}, tmp_path / "w.pth")
    loaded = net(1)
    load_weights(loaded, tmp_path / "w.pth")
    assert torch.equal(loaded[0].weight, net()[0].weight)
    torch.save({"0.weight": Pointers()}, tmp_path / "w.pth")
    assert "not tensors" in refused(tmp_path / "w.pth")


def test_damage_and_strange_names_stay_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(net().state_dict(), path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:100], b""):
        path.write_bytes(damaged)
        refused(path)
    evil = f"a\n\x1b[31m{'b' * 10_000}"
    torch.save({**net().state_dict(), evil: torch.ones(1)}, path)
    assert "unexpected 1: a [31mbb" in refused(path)
    torch.save({evil: 1}, path)
    refused(path)


@pytest.mark.parametrize("kind", ["quantised", "sparse", "whole numbers"])
def test_values_of_another_kind_are_named(kind: str, tmp_path: Path) -> None:
    state = net().state_dict()
    weight = state["3.weight"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state["3.weight"] = {
            "quantised": lambda: torch.quantize_per_tensor(weight, 0.1, 0, torch.qint8),
            "sparse": weight.to_sparse,
            "whole numbers": weight.to(torch.int8).clone,
        }[kind]()
        torch.save(state, tmp_path / "w.pth")
        text = refused(tmp_path / "w.pth")
    assert "3.weight" in text


def test_a_wrapped_networks_notes_reach_whoever_builds_it(tmp_path: Path) -> None:
    (tmp_path / "user_net.py").write_text(
        "import torch\n"
        "def make():\n"
        "    return torch.nn.DataParallel(torch.nn.Sequential(torch.nn.Linear(2, 3)))\n"
    )
    torch.save(
        {
            "model": {"0.weight": torch.ones(3, 2), "0.bias": torch.ones(3)},
            "ema": {"module.0.weight": torch.zeros(3, 2), "module.0.bias": torch.ones(3)},
        },
        tmp_path / "w.pth",
    )
    built = build_resolved(
        ModelConfig(spec=f"{tmp_path / 'user_net.py'}:make", weights=str(tmp_path / "w.pth"))
    )
    assert type(built.model) is nn.Sequential
    assert not built.model[0].weight.any()
    assert [note.split("  ")[0] for note in built.notes] == ["model", "weights"]
