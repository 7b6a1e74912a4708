"""Units that go altogether: the block keeps its shortcut, at no cost, as in its masked twin."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import Conv1d, Conv2d, Conv3d, Linear
from torch.utils.flop_counter import FlopCounterMode

from amc.cost.budget import resolve
from amc.cost.projection import project
from amc.cost.table import CostTable
from amc.errors import UnitError
from amc.models.factory import ModelConfig, build_model
from amc.models.weights import weights_sha256
from amc.pruning.apply import cut
from amc.pruning.checkpoint import load_model, save_model
from amc.pruning.find_units import find_units
from amc.pruning.plan import Plan, plan_of
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify


class Residual(nn.Module):
    """``x + branch(x)``."""

    def __init__(self, *branch: nn.Module) -> None:
        super().__init__()
        self.branch = nn.Sequential(*branch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.branch(x)


def network(name: str) -> tuple[nn.Module, torch.Tensor, list[str]]:
    """A network, an input, and the units of it that can go."""
    if name == "convolutions":
        inner = (Conv2d(8, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU())
        depthwise = (Conv2d(5, 5, 3, padding="same", groups=5, dilation=2), nn.BatchNorm2d(5))
        block = Residual(*inner, *depthwise, Conv2d(5, 8, 1), nn.BatchNorm2d(8))
        return nn.Sequential(Conv2d(3, 8, 1), block, Conv2d(8, 2, 1)), image(2), ["1.branch.0"]
    if name == "one dimension":
        block = Residual(Conv1d(8, 5, 5, padding=2), nn.GELU(), Conv1d(5, 8, 3, padding=1))
        return nn.Sequential(Conv1d(3, 8, 1), block, Conv1d(8, 2, 1)), image(1), ["1.branch.0"]
    if name == "three dimensions":
        block = Residual(Conv3d(8, 5, 1), nn.BatchNorm3d(5), Conv3d(5, 8, 1, bias=False))
        return nn.Sequential(Conv3d(3, 8, 1), block, Conv3d(8, 2, 1)), image(3), ["1.branch.0"]
    if name == "resnet20":
        blocks = [f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in range(3)]
        return build_model(ModelConfig(spec="amc:resnet20")), image(2, 32), blocks
    encoder = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    tokens = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    model = nn.Sequential(Linear(6, 8), encoder, Linear(8, 2)).eval()
    return model, tokens, ["1.self_attn", "1.linear1"]


def image(rank: int, side: int = 9) -> torch.Tensor:
    return torch.randn(2, 3, *[side] * rank, generator=torch.Generator().manual_seed(1))


NAMES = ["convolutions", "one dimension", "three dimensions", "resnet20", "transformer"]


@pytest.mark.parametrize("name", NAMES)
def test_every_branch_can_go_alone_and_with_the_others(name):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x, expected = network(name)
    units = find_units(model, x, allow_drop=True)
    droppable = [number for number, unit in enumerate(units) if unit.droppable]
    assert [units[number].name for number in droppable] == expected
    assert not any(unit.droppable for unit in find_units(model, x))
    cost = CostTable(units)
    for gone in (*([number] for number in droppable), droppable):
        widths = [0 if n in gone else max(1, u.width - 1) for n, u in enumerate(units)]
        small = slice_model(model, units, widths)
        assert verify(model, small, units, widths, x) < 1e-5
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            small(x)
        assert cost.macs(widths) * 2 == counter.get_total_flops()
        assert cost.params(widths) == sum(p.numel() for p in small.parameters())
        small.train()(x).sum().backward()  # it can be finetuned


def test_a_dropped_block_is_its_shortcut_plus_a_constant():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x, _ = network("convolutions")
    model.eval()
    units = find_units(model, x, allow_drop=True)
    widths = [0 if unit.droppable else unit.width for unit in units]
    small = slice_model(model, units, widths)
    with torch.inference_mode():
        stem = model[0](x)
        *_, last, norm = model[1].branch
        shift = norm(last.bias.view(1, -1, 1, 1))
        torch.testing.assert_close(small(x), model[2](stem + shift))


def test_only_droppable_units_may_be_empty():
    model, x, _ = network("convolutions")
    units = find_units(model, x)
    with pytest.raises(UnitError, match=r"width 0 is not an integer in 1\.\."):
        slice_model(model, units, [0] * len(units))


def test_a_small_wish_drops_a_unit_under_a_budget():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x, expected = network("resnet20")
    units = find_units(model, x, allow_drop=True, min_keep=0.25)
    assert units[1].widths[:3] == (0, 4, 5)
    cost = CostTable(units)
    budget = resolve({"macs": 0.5}, units, cost)
    wishes = np.array([0.01 if unit.name == expected[0] else 0.7 for unit in units])
    widths = project(wishes, units, budget)
    assert budget.met(widths)
    assert [unit.name for unit, width in zip(units, widths, strict=True) if not width] == [
        expected[0]
    ]


def test_a_plan_that_drops_units_is_applied_saved_and_loaded(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x, _ = network("resnet20")
    units = find_units(model, x, allow_drop=True)
    cost = CostTable(units)
    widths = [0 if unit.droppable and n % 2 else unit.width for n, unit in enumerate(units)]
    plan = plan_of(
        cost,
        widths,
        weights_sha256=weights_sha256(model),
        model=ModelConfig(spec="amc:resnet20"),
    )
    plan.save(tmp_path / "plan.json")
    small, _, error = cut(Plan.load(tmp_path / "plan.json"), model, x)
    assert error < 1e-5
    save_model(small, plan, tmp_path / "small.safetensors")
    loaded, _ = load_model(tmp_path / "small.safetensors")
    with torch.inference_mode():
        assert torch.equal(loaded(x), small.eval()(x))
