"""A layer that is condemned runs contiguous, and nothing else changes."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from amc.compute import layout
from amc.compute.convolutions import Convolution
from amc.compute.layout import contiguous_layers, fast_layout, suspects, unsound_layers


class Residual(nn.Module):
    """A strided 1x1 shortcut beside a 3x3, between two other convolutions; image sides 8, 4, 1."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 3, padding=1)
        self.shortcut = nn.Conv2d(5, 9, 1, stride=2, bias=False)
        self.main = nn.Conv2d(5, 9, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(9)
        self.up = nn.ConvTranspose2d(9, 6, 2, stride=2)
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(6, 4, 1))

    def forward(self, images: Tensor) -> Tensor:
        stem = self.stem(images).relu()
        return self.squeeze(self.up(self.norm(self.main(stem)) + self.shortcut(stem))).flatten(1)


def network() -> Residual:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Residual()


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def condemn(monkeypatch: pytest.MonkeyPatch, *kinds: tuple[str, int]) -> list[Convolution]:
    """Fakes the trial: what has one of these classes and kernel sizes is unsound. Returns what
    the trial was asked."""
    asked: list[Convolution] = []

    def unsound(convolutions: Iterable[Convolution]) -> set[Convolution]:
        asked.extend(convolutions)
        return {each for each in asked if (each.kind, each.kernel_size[0]) in kinds}

    monkeypatch.setattr(layout, "unsound", unsound)
    return asked


def gradients(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """Of the parameters and the input, with the output."""
    inputs = batch.clone(memory_format=torch.preserve_format).requires_grad_()
    output = model.train()(inputs)
    output.square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert inputs.grad is not None
    return found | {"input": inputs.grad, "output": output.detach()}


def strides(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tensor.stride() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("safe", [False, True])
def test_condemned_layers_run_contiguous_with_the_same_output_and_gradients(monkeypatch, safe):
    condemn(monkeypatch, ("Conv2d", 1), ("ConvTranspose2d", 2))
    model, twin, batch = network(), network(), images()
    seen: dict[str, tuple[bool, bool]] = {}

    def look(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        plain = torch.empty(inputs[0].shape).stride(), torch.empty(layer.weight.shape).stride()
        seen[name] = inputs[0].stride() == plain[0], layer.weight.stride() == plain[1]

    with fast_layout(model, batch, backward=True, safe=safe) as names:
        for name, layer in layout.layers(model).items():
            layer.register_forward_pre_hook(lambda m, i, name=name: look(name, m, i))
        found = gradients(model, batch.to(memory_format=torch.channels_last))
    expected = gradients(twin, batch)
    condemned = {"shortcut", "up", "squeeze.1"} | ({"stem", "main"} if safe else set())
    assert set(names) == condemned
    assert seen == {name: (name in condemned,) * 2 for name in layout.layers(model)}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_afterwards_everything_is_as_it_was(monkeypatch):
    asked = condemn(monkeypatch, ("Conv2d", 1))
    model, before = network().train(), strides(network())
    parameters = list(model.parameters())
    with pytest.raises(KeyError), fast_layout(model, images(), backward=True):  # noqa: PT012
        gradients(model, images())
        model.up.eval()
        raise KeyError
    assert strides(model) == before
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    assert model.training
    assert not model.up.training
    assert int(model.norm.num_batches_tracked) == 1  # of the training, none of the check
    assert all(p.grad is not None and p.grad.stride() == p.stride() for p in parameters)
    assert {(each.height, each.kernel_size) for each in asked} == {
        *((8, (3, 3)), (8, (1, 1)), (4, (2, 2)), (1, (1, 1)))
    }


def test_a_copy_made_meanwhile_keeps_the_layouts(monkeypatch):
    condemn(monkeypatch, ("Conv2d", 1))
    model = network().eval()
    expected = model(images())
    with fast_layout(model, images(), backward=True):
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    for each in copies:
        assert len(each.shortcut._forward_pre_hooks) == 1
        torch.testing.assert_close(each(images()), expected, rtol=1e-4, atol=1e-5)


def test_where_all_is_sound_there_are_no_hooks(monkeypatch):
    condemn(monkeypatch)
    model = network()
    with fast_layout(model, images(), backward=True) as names:
        assert names == ()
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
        assert model.main.weight.is_contiguous(memory_format=torch.channels_last)


def test_a_forward_is_asked_for_any_width(monkeypatch):
    asked = condemn(monkeypatch, ("Conv2d", 1))
    assert unsound_layers(network(), images(), backward=False) == ("shortcut", "squeeze.1")
    assert {each.in_channels for each in asked} == {0}
    with contiguous_layers(network(), ("gone", "stem")):  # pruned away: passed over
        pass


def test_suspects_are_tried_with_all_images(monkeypatch):
    asked = condemn(monkeypatch, ("ConvTranspose2d", 2))
    assert suspects(network(), images(7)) == ("up",)
    assert {(each.images, each.backward) for each in asked} == {(7, True)}


TRAINING = """
import torch
torch.set_num_threads(1)
torch.manual_seed(0)
import amc
from amc.config import ModelConfig
from amc.compute.layout import fast_layout
from amc.models.factory import build_model
from amc.pruning.find_units import read_units
model = build_model(ModelConfig(spec="amc:resnet20", arguments={"shortcut": "B"}))
images = torch.randn(32, 3, 32, 32)
units = read_units(model, images[:1])
wish = lambda unit: 5 if unit.width == 16 else unit.width // 2
widths = [min(unit.widths, key=lambda width: abs(width - wish(unit))) for unit in units]
small = amc.slice_model(model, units, widths).train()
assert small.conv1.out_channels == 5
with fast_layout(small, images, backward=True):
    for _ in range(4):
        small(images.to(memory_format=torch.channels_last)).square().mean().backward()
"""


def test_a_pruned_network_of_odd_widths_survives_its_training(tmp_path, monkeypatch):
    monkeypatch.setenv("AMC_CACHE", str(tmp_path))
    ended = subprocess.run(
        [sys.executable, "-c", TRAINING], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
