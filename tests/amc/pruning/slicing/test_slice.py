"""Slicing against independent oracles."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from amc.errors import UnitError
from amc.pruning.find_units import find_units
from amc.pruning.slicing.slice import slice_model, state_sizes
from amc.pruning.slicing.verification import verify
from tests import networks


@pytest.fixture
def tiny() -> tuple[nn.Module, Tensor]:
    return networks.tiny()


def middle(units) -> list[int]:
    return [max(1, unit.width // 2) for unit in units]


def test_slices_equal_the_dense_network_with_activations_zeroed_by_hooks(tiny):
    """The oracle knows nothing of slots: it zeroes what each reader of a removed channel sees."""
    model, x = tiny
    units = find_units(model, x)
    assert [unit.name for unit in units] == ["stem", "side"]
    for widths in ([5, 3], [1, 1], [8, 2], [3, 5]):
        stem, side = (torch.from_numpy(unit.kept(k)) for unit, k in zip(units, widths, strict=True))
        small = slice_model(model, units, widths)

        def keep_only(kept: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            zeroed = torch.zeros_like(inputs[0])
            zeroed[:, kept] = inputs[0][:, kept]
            return (zeroed,)

        twice = torch.cat([2 * torch.cat([stem, 8 + side]) + i for i in range(2)])
        readers = {"block": stem, "gate": stem, "linear": twice}
        hooks = [
            model.get_submodule(name).register_forward_pre_hook(
                lambda _, inputs, kept=kept: keep_only(kept, inputs)
            )
            for name, kept in readers.items()
        ]
        expected = model(x)
        for hook in hooks:
            hook.remove()
        torch.testing.assert_close(small(x), expected)
        assert [m.out_channels for m in small.children() if isinstance(m, nn.Conv2d)] == [
            *[widths[0]] * 3,
            widths[1],
            2 * sum(widths),
        ]
        assert small.depthwise.groups == sum(widths)
        assert small.bn.num_features == widths[0]
        assert (small.linear.in_features, small.linear.out_features) == (2 * sum(widths), 4)


def test_slices_hold_the_dense_values_at_the_kept_indices_in_order(tiny):
    model, x = tiny
    units = find_units(model, x)
    small = slice_model(model, units, [5, 3])
    stem, side = (torch.from_numpy(unit.kept(k)) for unit, k in zip(units, (5, 3), strict=True))
    assert torch.equal(small.block.weight, model.block.weight[stem][:, stem])
    assert torch.equal(small.bn.running_var, model.bn.running_var[stem])
    assert torch.equal(small.side.bias, model.side.bias[side])


def test_a_slice_of_everything_is_an_independent_bit_equal_copy(tiny):
    model, x = tiny
    units = find_units(model, x)
    small = slice_model(model, units, units.dense_widths)
    assert small.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(small.state_dict()[name], tensor)
        assert small.state_dict()[name].data_ptr() != tensor.data_ptr()


def test_slices_inherit_flags_and_can_be_trained(tiny):
    model, x = tiny
    units = find_units(model, x)
    model.side.weight.requires_grad_(False)
    model.train()
    model.bn.eval()
    small = slice_model(model, units, [5, 3])
    assert [p.requires_grad for p in small.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    assert [m.training for m in small.modules()] == [m.training for m in model.modules()]
    small(x).square().sum().backward()
    assert small.side.weight.grad is None
    assert all(p.grad is not None for p in small.parameters() if p.requires_grad)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("widths", [[0, 3], [9, 3], [5], [5, 3, 1], [2.5, 3], [-1, 3]], ids=repr)
def test_widths_that_a_unit_does_not_allow_are_refused(tiny, widths):
    model, x = tiny
    units = find_units(model, x)
    with pytest.raises(UnitError, match=r"stem: width|widths for a network of 2 units"):
        slice_model(model, units, widths)


def test_a_slice_can_be_sliced_again_with_the_same_result(subject):
    """Cutting twice keeps what cutting once does: 0.7 of the channels, then half of the dense."""
    for name in ("resnet20_b", "mobilenet_v2"):
        s = subject(name)
        first = [max(1, round(0.7 * unit.width)) for unit in s.units]
        second = [max(1, unit.width // 2) for unit in s.units]
        once = slice_model(s.model, s.units, second)
        between = slice_model(s.model, s.units, first)
        units = find_units(between, s.inputs)
        ranks = [  # the same ranking, in terms of the channels that are left
            np.array([np.searchsorted(unit.kept(k), group) for group in unit.order[:k]])
            for unit, k in zip(s.units, first, strict=True)
        ]
        items = tuple(replace(unit, order=rank) for unit, rank in zip(units, ranks, strict=True))
        twice = slice_model(between, replace(units, items=items), second)
        for key, tensor in once.state_dict().items():
            assert torch.equal(twice.state_dict()[key], tensor)
        assert torch.equal(once(s.inputs), twice(s.inputs))


def test_the_same_widths_give_the_same_bits(subject):
    s = subject("mobilenet_v2")
    first, second = (slice_model(s.model, s.units, middle(s.units)) for _ in range(2))
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))


@pytest.mark.parametrize(
    ("module", "stated"),
    [
        (nn.Conv2d(12, 6, 3, groups=3), {"in_channels": 12, "out_channels": 6, "groups": 3}),
        (nn.Conv2d(4, 8, 3, groups=4), {"in_channels": 4, "out_channels": 8, "groups": 4}),
        (nn.ConvTranspose2d(6, 4, 2), {"in_channels": 6, "out_channels": 4, "groups": 1}),
        (
            nn.ConvTranspose1d(6, 4, 2, groups=2),
            {"in_channels": 6, "out_channels": 4, "groups": 2},
        ),
        (nn.Conv3d(6, 4, 2), {"in_channels": 6, "out_channels": 4, "groups": 1}),
        (nn.Linear(5, 7, bias=False), {"in_features": 5, "out_features": 7}),
        (nn.BatchNorm1d(5, affine=False), {"num_features": 5}),
        (nn.BatchNorm1d(5, track_running_stats=False), {"num_features": 5}),
        (nn.PReLU(6), {"num_parameters": 6}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_sizes_of_a_dense_module_are_stated_as_pytorch_states_them(module, stated):
    state_sizes(module)
    assert {name: getattr(module, name) for name in stated} == stated


@pytest.mark.parametrize(
    "compute",
    [
        pytest.param(
            nn.utils.weight_norm, marks=pytest.mark.filterwarnings("ignore:.*weight_norm")
        ),
        nn.utils.spectral_norm,
        lambda layer: prune.random_unstructured(layer, "weight", 0.3),
    ],
    ids=["weight_norm", "spectral_norm", "prune"],
)
def test_weights_that_hooks_compute_are_computed_anew_also_after_a_training_step(compute):
    """These layers hold what they computed in their last forward: dense, and with a graph."""
    torch.manual_seed(0)
    model = nn.Sequential(compute(nn.Linear(3, 8)), nn.ReLU(), compute(nn.Linear(8, 4)))
    x = torch.randn(5, 3)
    model(x).sum().backward()  # in training mode, where a spectral norm learns
    units = find_units(model, x)
    small = slice_model(model, units, [3])
    first, _, last = small
    assert (first.out_features, first.in_features) == tuple(first.weight.shape) == (3, 3)
    assert (last.out_features, last.in_features) == tuple(last.weight.shape) == (4, 3)
    assert verify(model, small, units, [3], x) < 1e-6
    small(x).sum().backward()
