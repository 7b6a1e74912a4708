"""Least-squares reconstruction against explicit least squares."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from amc.config import EvaluateConfig, ModelConfig
from amc.errors import ConfigError, EvaluationError
from amc.pipeline.search import make_config, search
from amc.pruning.apply import apply_plan
from amc.pruning.find_units import find_units
from amc.pruning.plan_evaluator import PlanEvaluator
from amc.pruning.reconstruction import Reconstructor
from amc.pruning.slicing.slice import kept_indices, slice_model
from amc.vision.task import image_task


class Plain(nn.Module):
    """A strided convolution and a linear layer, both with biases, that read what is pruned."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 6, 3, padding=1)
        self.second = nn.Conv2d(6, 5, (3, 2), stride=2, padding=(1, 2))
        self.head = nn.Linear(5 * 3 * 5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.second(functional.relu(self.first(x))))
        out: Tensor = self.head(x.flatten(1))
        return out


@pytest.fixture
def plain():
    """The network in double precision, its units, and three batches."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Plain().double().eval()
    generator = torch.Generator().manual_seed(1)
    batches = torch.randn(3, 60, 2, 6, 6, dtype=torch.float64, generator=generator)
    return model, find_units(model, batches[0][:2]), list(batches)


def read_by(model: nn.Module, name: str, batches: list[Tensor]) -> Tensor:
    """What the layer reads from all batches."""
    seen: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    with torch.no_grad():
        for batch in batches:
            model(batch)
    handle.remove()
    return torch.cat(seen)


def patches_of(x: Tensor) -> Tensor:
    """What ``Plain.second`` sees at each position, cut out by hand: (rows, channels * 6)."""
    padded = functional.pad(x, (2, 2, 1, 1))
    rows = [
        padded[:, :, i : i + 3, j : j + 2].flatten(1)
        for i in range(0, padded.shape[2] - 2, 2)
        for j in range(0, padded.shape[3] - 1, 2)
    ]
    return torch.cat(rows)


def with_ones(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def test_a_strided_padded_convolution_and_a_linear_layer_are_the_least_squares_solution(plain):
    model, units, batches = plain
    assert [unit.name for unit in units] == ["first", "second"]
    widths = (4, 2)
    first, second = (torch.from_numpy(u.kept(k)) for u, k in zip(units, widths, strict=True))
    small = slice_model(model, units, widths)
    Reconstructor(model, units, batches, ridge=1e-13)(small, widths)

    x = read_by(model, "second", batches)
    dense = model.second.weight[second].flatten(1).T
    wanted = patches_of(x) @ dense + model.second.bias[second]
    solution = torch.linalg.lstsq(with_ones(patches_of(x[:, first])), wanted).solution
    torch.testing.assert_close(small.second.weight.flatten(1).T, solution[:-1])
    torch.testing.assert_close(small.second.bias, solution[-1])

    x = read_by(model, "head", batches)
    columns = (second[:, None] * 15 + torch.arange(15)).flatten()
    # Some columns are dead, or constant as the bias is: only what is computed is unique.
    rows = with_ones(x[:, columns])
    solution = torch.linalg.lstsq(rows, model.head(x), driver="gelsd").solution
    torch.testing.assert_close(small.head(x[:, columns]), rows @ solution, rtol=1e-6, atol=1e-6)


def test_the_ridge_holds_on_to_the_dense_weights(plain):
    """The same minimum as least squares with one more row of sqrt(ridge) for each weight."""
    model, units, batches = plain
    widths = (4, 5)
    first = torch.from_numpy(units[0].kept(4))
    small = slice_model(model, units, widths)
    Reconstructor(model, units, batches, ridge=0.3)(small, widths)
    x = read_by(model, "second", batches)
    full, kept = with_ones(patches_of(x)), with_ones(patches_of(x[:, first]))
    dense = torch.cat([model.second.weight.flatten(1), model.second.bias[:, None]], 1).T
    start = torch.cat([model.second.weight[:, first].flatten(1), model.second.bias[:, None]], 1).T
    ridge = 0.3 * full.square().sum(0).mean()
    rows = torch.cat([kept, ridge.sqrt() * torch.eye(kept.shape[1], dtype=torch.float64)])
    wanted = torch.cat([full @ dense, ridge.sqrt() * start])
    solution = torch.linalg.lstsq(rows, wanted).solution
    torch.testing.assert_close(small.second.weight.flatten(1).T, solution[:-1])
    torch.testing.assert_close(small.second.bias, solution[-1])


def test_what_lost_no_inputs_keeps_its_bits(plain):
    model, units, batches = plain
    mend = Reconstructor(model, units, batches)
    for widths in (units.dense_widths, (6, 2)):
        small, sliced = (slice_model(model, units, widths) for _ in range(2))
        mend(small, widths)
        assert torch.equal(small.first.weight, model.first.weight)
        assert torch.equal(small.second.weight, sliced.second.weight)
        assert torch.equal(small.head.weight, sliced.head.weight) == (widths[1] == 5)


def test_every_layer_of_a_residual_network_comes_closer_to_the_dense_one(subject):
    """The first unit is the residual stream, with zero-padded shortcuts."""
    net = subject("resnet20")
    assert net.units[0].kind == "stream"
    generator = torch.Generator().manual_seed(2)
    batches = list(torch.randn(2, 8, 3, 32, 32, generator=generator))
    state = {name: tensor.clone() for name, tensor in net.model.state_dict().items()}
    mend = Reconstructor(net.model, net.units, batches)
    assert mend.skipped == {}
    widths = [unit.width * 5 // 8 for unit in net.units]
    mended, sliced = (slice_model(net.model, net.units, widths) for _ in range(2))
    mend(mended, widths)
    readers = {s.tensor for unit in net.units for s in unit.slots if s.purpose == "in"}
    assert len(readers) == 19
    for tensor, dims in kept_indices(net.units, widths).items():
        if tensor in readers:
            name, kept = tensor.removesuffix(".weight"), dict(dims)
            x = read_by(net.model, name, batches)
            wanted = net.model.get_submodule(name)(x)
            wanted = wanted[:, kept[0]] if 0 in kept else wanted
            closer, plainly = (
                (model.get_submodule(name)(x[:, kept[1]]) - wanted).square().sum()
                for model in (mended, sliced)
            )
            assert closer < 0.95 * plainly, name
    after = net.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in state.items())


def test_layers_that_cannot_be_mended_are_left_as_they_are_cut_and_named():
    class Scaled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 8), nn.Linear(8, 8)
            self.derived, self.functional = Scaled(8, 4), nn.Linear(8, 4)
            self.grouped = nn.Conv1d(8, 4, 1)
            self.mended = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.second(self.first(x).relu()).relu()
            aside = functional.linear(x, self.functional.weight)
            aside = aside + self.grouped(x[:, :, None]).squeeze(2)
            return self.derived(x) + aside + self.mended(input=x)

    torch.manual_seed(0)
    model, x = Odd().eval(), torch.randn(40, 3)
    units = find_units(model, x[:2])
    widths = [5] * len(units)
    mend = Reconstructor(model, units, [x], max_inputs=8)
    assert mend.skipped == {
        "derived": "not a plain Conv2d or Linear",
        "grouped": "not a plain Conv2d or Linear",
        "functional": "its own forward is never called",
    }
    mended, sliced = (slice_model(model, units, widths) for _ in range(2))
    mend(mended, widths)
    same = {n for n, t in sliced.state_dict().items() if torch.equal(t, mended.state_dict()[n])}
    assert mended.state_dict().keys() - same == {
        f"{name}.{kind}" for name in ("second", "mended") for kind in ("weight", "bias")
    }
    too_large = Reconstructor(model, units, [x], max_inputs=7).skipped
    assert too_large["second"] == too_large["mended"] == "8 inputs, 7 at most"


def test_inputs_that_are_missing_or_not_finite_are_errors(plain):
    model, units, batches = plain
    with pytest.raises(ConfigError, match=r"the task has none: give batches .* Task\.calibration"):
        Reconstructor(model, units, [])
    with pytest.raises(EvaluationError, match="second of the dense network reads values that"):
        Reconstructor(model, units, [batches[0] * torch.inf])


def test_a_dead_layer_keeps_its_weights_and_a_bias_takes_over_what_is_constant(plain):
    model, units, batches = plain
    nn.init.constant_(model.first.bias, -1e3)
    model.second.bias = None
    widths = (4, 2)
    small, sliced = (slice_model(model, units, widths) for _ in range(2))
    Reconstructor(model, units, batches)(small, widths)
    assert torch.equal(small.second.weight, sliced.second.weight)  # reads zeros, has no bias
    model.head.weight.data[:] = 1.0
    model.second.register_forward_hook(lambda *_: torch.ones(60, 5, 3, 5, dtype=torch.float64))
    Reconstructor(model, units, batches, ridge=1e-9)(small, widths)
    torch.testing.assert_close(small.head(torch.ones(1, 30).double()), model(batches[0])[:1])


def test_a_dropped_branch_is_left_alone():
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 8, 3, padding=1)
            self.outer, self.head = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x).relu()
            out: Tensor = self.head(x + self.outer(self.inner(x).relu()))
            return out

    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(4, 3, 5, 5)
    units = find_units(model, x, allow_drop=True)
    widths = [0 if unit.name == "inner" else 4 for unit in units]
    small = slice_model(model, units, widths)
    sliced = small(x)
    Reconstructor(model, units, [x])(small, widths)
    assert (small(x) - model(x)).square().sum() < 0.9 * (sliced - model(x)).square().sum()


def test_the_applied_plan_is_mended_as_those_that_were_scored(subject, tmp_path):
    save_file(subject("smallcnn").model.state_dict(), tmp_path / "w.safetensors")
    model = ModelConfig(spec="amc:smallcnn", weights=str(tmp_path / "w.safetensors"))
    settings = EvaluateConfig(images=60, calibration_images=60, reconstruct=True)
    config = make_config("flops=0.4", evaluate=settings, agent="random", episodes=2)
    task = image_task(model, "digits", settings, progress=False)
    found = search(task, config=config)
    applied = apply_plan(found.plan, task)
    assert applied.quality == pytest.approx(found.best.quality)
    plainly = replace(task, reconstruct=False)
    wanted = PlanEvaluator(plainly, found.units)(found.best.widths)
    assert apply_plan(found.plan, plainly).quality == pytest.approx(wanted)
    assert wanted["kl"] != pytest.approx(applied.quality["kl"], rel=1e-4)
    with pytest.raises(ConfigError, match=r"Task\.calibration"):
        search(replace(task, calibration=()), config=config)
