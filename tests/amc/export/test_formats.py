"""Deployable files: at any batch size they give PyTorch's answer, or they are not written."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from amc.cost.table import CostTable
from amc.errors import ModelError, VerificationError
from amc.export.formats import export_onnx, export_pt2, export_saved
from amc.models.weights import weights_sha256
from amc.pruning.checkpoint import save_model
from amc.pruning.plan import plan_of
from amc.pruning.slicing.slice import slice_model

EXPORTS = {"onnx": export_onnx, "pt2": export_pt2}


def run_file(path: Path, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Outputs of a file as its user would get them, without the code under test."""
    if path.suffix == ".pt2":
        output = torch.export.load(path).module()(*inputs)
        return list(output.values()) if isinstance(output, dict) else [output]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [argument.name for argument in session.get_inputs()]
    feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    return [torch.from_numpy(output) for output in session.run(None, feed)]


@pytest.fixture
def saved(subject, tmp_path):
    """A sliced network, the file that it is saved in, and an input for it."""

    def make(name: str, input_shape: tuple[int, ...] | None) -> tuple[nn.Module, Path]:
        s = subject(name)
        widths = np.random.default_rng(0).integers(1, s.units.dense_widths).tolist()
        small = slice_model(s.model, s.units, widths)
        plan = plan_of(
            CostTable(s.units),
            widths,
            weights_sha256="0" * 64,
            model=s.config,
            example_inputs=torch.zeros(input_shape) if input_shape else None,
        )
        save_model(small, plan, tmp_path / "model.safetensors")
        return small.eval(), tmp_path / "model.safetensors"

    return make


def test_a_saved_network_runs_elsewhere_at_any_batch_size(saved, tmp_path, capfd):
    shape = (3, 32, 32)
    small, path = saved("resnet20", (1, *shape))
    onnx, pt2 = tmp_path / "out.onnx", tmp_path / "out.pt2"
    errors = export_saved(path, onnx=onnx, pt2=pt2)
    assert errors[pt2] == 0
    assert 0 < errors[onnx] < 1e-5
    images = torch.randn(7, *shape, generator=torch.Generator().manual_seed(5))
    expected = small(images).detach()
    for file in (onnx, pt2):
        (actual,) = run_file(file, (images,))
        assert float((actual.detach() - expected).abs().max() / expected.abs().max()) < 1e-5
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    assert [argument.shape for argument in session.get_inputs()] == [["batch", *shape]]
    assert [argument.shape for argument in session.get_outputs()] == [["batch", 10]]
    weights = 4 * sum(tensor.numel() for tensor in small.state_dict().values())
    assert weights / 2 < onnx.stat().st_size < weights + 200_000  # the small network, not the dense
    assert {file.name for file in tmp_path.iterdir()} == {path.name, "out.onnx", "out.pt2"}
    assert capfd.readouterr() == ("", "")


class Tagger(nn.Module):
    """Tokens and a mask in; scores, the best tag and the mask's row sums out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
        scores = self.head(self.embed(tokens) * mask[..., None])
        return {"scores": scores, "best": scores.argmax(-1), "rows": mask.sum(-1)}


@pytest.mark.parametrize("form", EXPORTS)
def test_several_inputs_and_outputs(tmp_path, form):
    torch.manual_seed(0)
    model, path = Tagger(), tmp_path / f"out.{form}"
    before = weights_sha256(model)
    example = (torch.arange(5).view(1, 5) + 6, torch.ones(1, 5))
    assert EXPORTS[form](model, example, path) < 1e-6
    assert model.training
    assert weights_sha256(model) == before
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randint(11, (4, 5), generator=generator), torch.rand(4, 5, generator=generator)
    for actual, expected in zip(run_file(path, inputs), model(*inputs).values(), strict=True):
        torch.testing.assert_close(actual, expected)


class Meta(nn.Module):
    """An image, and what is known of it: as keywords of which one is optional; a dict out."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Linear(4, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, *, image: Tensor, meta: Tensor | None = None, mask: Tensor | None = None):
        x = self.first(image)
        x = x if meta is None else x + self.second(meta)[..., None, None]
        x = x if mask is None else x * mask
        return {"logits": self.head(x.relu().mean((2, 3))), "aux": [x.mean(1)]}


class OneDict(Meta):
    """The same from a dict as its one argument."""

    def forward(self, batch: dict[str, Tensor]):
        return super().forward(**batch)


@pytest.mark.parametrize("form", EXPORTS)
@pytest.mark.parametrize("kind", [Meta, OneDict])
def test_keywords_and_dicts_at_any_batch_size(tmp_path, form, kind):
    """The mask has no batch: it is as large as the image."""
    torch.manual_seed(0)
    model, path = kind().eval(), tmp_path / f"out.{form}"
    mask = (torch.rand(6, 6) > 0.5).float()
    example = {"mask": mask, "meta": torch.randn(1, 4), "image": torch.randn(1, 3, 6, 6)}
    assert EXPORTS[form](model, example, path) < 1e-6
    given = {"mask": mask, "meta": torch.randn(4, 4), "image": torch.randn(4, 3, 6, 6)}
    expected = model(**given) if kind is Meta else model(given)
    if form == "pt2":
        loaded = torch.export.load(path).module()
        actual = loaded(**given) if kind is Meta else loaded(given)
        torch.testing.assert_close(actual, expected)
        return
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    shapes = {x.name.removeprefix("batch_"): x.shape for x in session.get_inputs()}
    names = {x.name.removeprefix("batch_"): x.name for x in session.get_inputs()}
    assert shapes == {"mask": [6, 6], "meta": ["batch", 4], "image": ["batch", 3, 6, 6]}
    found = session.run(None, {names[key]: value.numpy() for key, value in given.items()})
    for ours, theirs in zip(found, (expected["logits"], *expected["aux"]), strict=True):
        torch.testing.assert_close(torch.from_numpy(ours), theirs)


class Wrong(nn.Module):
    """What is exported of it is off by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        block = (nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        more = (nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU())
        self.net = nn.Sequential(*block, *more, nn.Flatten(), nn.Linear(12 * 64, 10))
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        y = self.net(x)
        return y * self.factor if torch.compiler.is_exporting() else y


@pytest.mark.parametrize("form", EXPORTS)
@pytest.mark.parametrize(
    ("kind", "most", "wrong"),
    [
        (torch.float64, 1e-14, 1.001),
        (torch.float32, 1e-6, 1.001),
        (torch.float16, 4e-3, 1.04),
        (torch.bfloat16, 4e-2, 1.3),
    ],
)
def test_rounding_is_told_from_mistakes_in_each_kind_of_numbers(tmp_path, form, kind, most, wrong):
    torch.manual_seed(0)
    path, x = tmp_path / f"out.{form}", torch.randn(2, 1, 8, 8).to(kind)
    assert EXPORTS[form](Wrong(1.0).to(kind), x, path) <= most
    before = path.read_bytes()
    with pytest.raises(VerificationError, match=r"is not written: .* differs from PyTorch by"):
        EXPORTS[form](Wrong(wrong).to(kind), x, path)
    assert path.read_bytes() == before


class Drifts(nn.Module):
    """Gives another answer every time, so that no file can agree with it."""

    def forward(self, x: Tensor) -> Tensor:
        CALLS.append(1)
        return x * len(CALLS)


CALLS: list[int] = []


class OneBatch(nn.Module):
    """Works at a batch of two only."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, 4)


class Broken(nn.Module):
    """Answers NaN."""

    def forward(self, x: Tensor) -> Tensor:
        return x * float("nan")


@pytest.mark.parametrize("form", EXPORTS)
@pytest.mark.parametrize(
    ("model", "kind", "message"),
    [
        (Drifts(), VerificationError, "is not written: .* differs from PyTorch by"),
        (Broken(), VerificationError, "is not written: .* differs from PyTorch by inf"),
        (OneBatch(), ModelError, "cannot be exported with a free batch size"),
    ],
    ids=["drifts", "nan", "one batch"],
)
def test_what_does_not_agree_leaves_the_older_file(tmp_path, form, model, kind, message):
    path = tmp_path / f"out.{form}"
    path.write_text("older")
    with pytest.raises(kind, match=message):
        EXPORTS[form](model, torch.zeros(1, 4), path)
    assert path.read_text() == "older"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(monkeypatch, tmp_path, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"needs {package}: pip install amc-agent\[onnx\]"):
        export_onnx(nn.Linear(4, 2), torch.zeros(1, 4), tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_a_user_gets_wrong(saved, tmp_path):
    _, path = saved("smallcnn", None)
    with pytest.raises(ModelError, match=r"does not say what its input looks like.*export_onnx"):
        export_saved(path, onnx=tmp_path / "out.onnx")
    with pytest.raises(ModelError, match=r"out\.bin: .* must end in \.pt2"):
        export_pt2(nn.Linear(4, 2), torch.zeros(1, 4), tmp_path / "out.bin")
    with pytest.raises(ModelError, match="there is no folder"):
        export_onnx(nn.Linear(4, 2), torch.zeros(1, 4), tmp_path / "absent" / "out.onnx")
