"""Slicing against independent oracles, and a verification that fails when it must."""

from __future__ import annotations

import copy
import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amc.errors import UnitError, VerificationError
from amc.find import find_units
from amc.slim import slice_model, state_sizes
from amc.twin import masked
from amc.verification import verify


class Tiny(nn.Module):
    """A residual sum, a gate, a concatenation and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.block = nn.Conv2d(8, 8, 3, padding=1)
        self.gate = nn.Conv2d(8, 8, 1)
        self.side = nn.Conv2d(3, 5, 1)
        self.depthwise = nn.Conv2d(13, 26, 3, groups=13)
        self.linear = nn.Linear(26, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn(self.stem(x)))
        y = torch.relu(y + self.block(y))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        y = self.depthwise(torch.cat([y, self.side(x)], 1))
        logits: Tensor = self.linear(y.mean((2, 3)))
        return logits


@pytest.fixture
def tiny() -> tuple[nn.Module, Tensor]:
    generator = torch.Generator().manual_seed(0)
    model = Tiny().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    model.bn.running_mean.uniform_(-0.5, 0.5, generator=generator)
    model.bn.running_var.uniform_(0.5, 1.5, generator=generator)
    return model, torch.randn(2, 3, 6, 6, generator=generator)


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


class Stop(Exception):
    """Raised in a test's body."""


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "smallcnn"])
def test_masking_is_undone_bit_by_bit(subject, name):
    s = subject(name)
    before = copy.deepcopy(s.model.state_dict())
    dense = s.model(s.inputs)

    def use_twin() -> None:
        with torch.no_grad(), masked(s.model, s.units, middle(s.units)) as twin:
            assert twin is s.model
            assert not torch.allclose(twin(s.inputs), dense)
            raise Stop

    with pytest.raises(Stop):
        use_twin()
    after = s.model.state_dict()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v3_small", "googlenet"])
def test_verification_sees_one_slot_that_is_off_by_one_row(subject, name):
    """Every single use of every unit matters: its rows rolled by one, the proof must fail."""
    s = subject(name)
    number = len(s.units) // 3
    unit = s.units[number]
    widths = list(s.units.dense_widths)
    widths[number] = unit.width // 2
    for position, slot in enumerate(unit.slots):
        rolled = replace(slot, index=np.roll(slot.index, 1, axis=0))
        slots = (*unit.slots[:position], rolled, *unit.slots[position + 1 :])
        items = list(s.units)
        items[number] = replace(unit, slots=slots)
        wrong = replace(s.units, items=tuple(items))
        with pytest.raises(VerificationError, match="differs from"):
            verify(s.model, slice_model(s.model, wrong, widths), wrong, widths, s.inputs)


def test_verification_sees_a_missing_use_of_any_unit(tiny):
    model, x = tiny
    units = find_units(model, x)
    widths = middle(units)
    for number, unit in enumerate(units):
        for position in range(len(unit.slots)):
            slots = unit.slots[:position] + unit.slots[position + 1 :]
            items = list(units)
            items[number] = replace(unit, slots=slots)
            wrong = replace(units, items=tuple(items))
            with pytest.raises(VerificationError):
                verify(model, slice_model(model, wrong, widths), wrong, widths, x)


def test_verification_sees_swapped_channels_in_one_tensor(subject):
    s = subject("resnet20")
    widths = middle(s.units)
    for name in ("layer1.0.conv1.weight", "layer2.1.bn2.running_mean", "layer3.2.conv2.weight"):
        small = slice_model(s.model, s.units, widths)
        tensor = small.state_dict()[name]
        tensor[[0, 1]] = tensor[[1, 0]]
        with pytest.raises(VerificationError, match="differs from"):
            verify(s.model, small, s.units, widths, s.inputs)


def test_verification_sees_one_other_kept_channel(subject):
    s = subject("resnet20")
    widths = middle(s.units)
    number = 4
    order = s.units[number].order.copy()
    order[[0, -1]] = order[[-1, 0]]  # the best channel makes room for the worst
    items = list(s.units)
    items[number] = replace(s.units[number], order=order)
    small = slice_model(s.model, replace(s.units, items=tuple(items)), widths)
    with pytest.raises(VerificationError, match="differs from"):
        verify(s.model, small, s.units, widths, s.inputs)


def test_verification_sees_a_single_perturbed_weight(subject):
    s = subject("resnet20")
    widths = middle(s.units)
    small = slice_model(s.model, s.units, widths)
    assert verify(s.model, small, s.units, widths, s.inputs) < 1e-5
    with torch.no_grad():
        small.layer2[0].conv1.weight[0, 0, 1, 1] += 0.05
    with pytest.raises(VerificationError, match=r"differs from .* by \d\.\de-\d\d"):
        verify(s.model, small, s.units, widths, s.inputs)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_verification_refuses_outputs_that_are_not_numbers(tiny, value):
    model, x = tiny
    units = find_units(model, x)
    small = slice_model(model, units, [5, 3])
    with pytest.raises(VerificationError, match="by nan"):  # both networks agree on it
        verify(model, small, units, [5, 3], torch.full_like(x, value))
    with torch.no_grad():
        small.linear.bias[0] = value
    with pytest.raises(VerificationError, match=r"by (nan|inf)"):
        verify(model, small, units, [5, 3], x)


class Pair(nn.Module):
    """Two outputs in a dictionary; the second has a fixed size."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 1)
        self.b = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor | list[Tensor]]:
        return {"logits": self.b(self.a(x)), "others": [x.sum((2, 3))]}


def test_verification_compares_all_outputs_and_their_shapes():
    model = Pair()
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    units = find_units(model, x)
    small = slice_model(model, units, [3])
    assert verify(model, small, units, [3], x) < 1e-5
    forward = small.forward
    small.forward = lambda x: forward(x) | {"others": [x.sum((2, 3)) + 1]}
    with pytest.raises(VerificationError, match="differs from"):
        verify(model, small, units, [3], x)
    small.forward = lambda x: forward(x) | {"others": []}
    with pytest.raises(VerificationError, match="other shapes"):
        verify(model, small, units, [3], x)


def test_verification_names_the_failing_line_of_the_users_code(tiny):
    model, x = tiny
    units = find_units(model, x)
    small = slice_model(model, units, [5, 3])

    def forward(x: Tensor) -> Tensor:
        return x.view(7, 7)

    small.forward = forward
    line = forward.__code__.co_firstlineno + 1
    with pytest.raises(
        VerificationError, match=rf"shape '\[7, 7\]' is invalid .*\(at test_slim.py:{line}\)"
    ):
        verify(model, small, units, [5, 3], x)


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


def test_a_hundred_slices_leave_nothing_behind(subject):
    s = subject("smallcnn")
    gc.collect()
    gc.disable()  # reference counts alone must do: cycles would pile up between collections
    try:
        seen = []
        for seed in range(100):
            widths = np.random.default_rng(seed).integers(1, s.units.dense_widths)
            small = slice_model(s.model, s.units, widths.tolist())
            verify(s.model, small, s.units, widths.tolist(), s.inputs)
            seen += [weakref.ref(small), weakref.ref(small.conv1.weight)]
            del small
        assert [reference for reference in seen if reference() is not None] == []
    finally:
        gc.enable()


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
