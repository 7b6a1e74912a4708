"""The masked twin, and a verification that fails when it must."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from amc.errors import VerificationError
from amc.pruning.find_units import find_units
from amc.pruning.slicing.masking import masked
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify
from amc.tracing.units import Slot, Unit, Units
from tests import networks
from tests.families import FAMILIES, SLOW
from tests.families import subject as family


@pytest.fixture
def tiny() -> tuple[nn.Module, Tensor]:
    return networks.tiny()


def middle(units) -> list[int]:
    return [max(1, unit.width // 2) for unit in units]


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
    # Both networks would agree on such an input; others are drawn.
    assert 0 < verify(model, small, units, [5, 3], torch.full_like(x, value)) < 1e-5
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
    message = rf"shape '\[7, 7\]' is invalid .*\(at test_verification.py:{line}\)"
    with pytest.raises(VerificationError, match=message):
        verify(model, small, units, [5, 3], x)


def rolled(units: Units, number: int, position: int) -> Units:
    """The same units, but one slot of one unit is off by one group."""
    unit = units[number]
    slot = unit.slots[position]
    wrong = replace(slot, index=np.roll(slot.index, 1, axis=0))
    slots = (*unit.slots[:position], wrong, *unit.slots[position + 1 :])
    return replaced(units, number, replace(unit, slots=slots))


def replaced(units: Units, number: int, unit: Unit) -> Units:
    return replace(units, items=(*units[:number], unit, *units[number + 1 :]))


@pytest.mark.parametrize("name", [n for n in FAMILIES if n not in SLOW])
def test_verification_has_power_in_every_family(name):
    """A sample of the uses of the first, the last and an attention's unit, each off by one."""
    s = family(name)
    heads = [number for number, unit in enumerate(s.units) if unit.kind == "heads"]
    for number in {0, len(s.units) - 1, *heads[:1]}:
        unit = s.units[number]
        widths = list(s.units.dense_widths)
        widths[number] = max(1, unit.width // 2)
        visible = [n for n, slot in enumerate(unit.slots) if shows(slot)]
        for place in np.unique(np.linspace(0, len(visible) - 1, 5, dtype=int)):
            wrong = rolled(s.units, number, visible[place])
            small = slice_model(s.model, wrong, widths)
            with pytest.raises(VerificationError):
                verify(s.model, small, wrong, widths, s.inputs)


def shows(slot: Slot) -> bool:
    """A bias of attention's keys is the same for all of them, and softmax is deaf to it; a size has
    no order."""
    return slot.purpose not in ("size", "count") and not slot.tensor.endswith("key.bias")


class Normed(nn.Module):
    """A norm over 12 channels between two layers, over the last dimension."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(5, 12), norm, nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.norm(self.a(x)))
        return out


class NormedMaps(Normed):
    """The same over the dimension of a feature map's channels."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.a(x).transpose(1, 2))
        out: Tensor = self.b(y.transpose(1, 2))
        return out


def layer_norm(s: Any, y: Tensor, kept: Tensor) -> Tensor:
    mean, variance = y.mean(-1, keepdim=True), y.var(-1, keepdim=True, correction=0)
    return (y - mean) / (variance + s.eps).sqrt() * s.weight[kept] + s.bias[kept]


def rms_norm(s: Any, y: Tensor, kept: Tensor) -> Tensor:
    return y / (y.square().mean(-1, keepdim=True) + s.eps).sqrt() * s.weight[kept]


def group_norm(s: Any, y: Tensor, kept: Tensor) -> Tensor:
    """(N, T, C): of each image and each of 3 groups of channels, over all positions."""
    groups = y.unflatten(-1, (3, -1))
    mean = groups.mean((1, 3), keepdim=True)
    variance = groups.var((1, 3), keepdim=True, correction=0)
    normal = ((groups - mean) / (variance + s.eps).sqrt()).flatten(2)
    return normal * s.weight[kept] + s.bias[kept]


NORMS: dict[str, tuple[Any, Any]] = {
    "layer": (lambda: Normed(nn.LayerNorm(12, eps=0.1)), layer_norm),
    "rms": (lambda: Normed(nn.RMSNorm(12, eps=0.1)), rms_norm),
    "group": (lambda: NormedMaps(nn.GroupNorm(3, 12, eps=0.1)), group_norm),
}


@pytest.mark.parametrize(
    "mode",
    [
        torch.inference_mode,
        torch.no_grad,
        torch.enable_grad,
    ],
)
@pytest.mark.parametrize("name", NORMS)
def test_norms_are_computed_over_the_kept_channels(name, mode):
    build, by_hand = NORMS[name]
    model, generator = build(), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=generator)
    x = torch.randn(2, 6, 5, generator=generator)
    units = find_units(model, x)
    (unit,) = units
    assert unit.width == (4 if name == "group" else 12)
    for width in (1, 3, unit.width - 1):
        (slot,) = [slot for slot in unit.slots if slot.tensor == "b.weight"]
        kept = torch.from_numpy(np.sort(slot.index[unit.kept(width)].flatten()))
        y = by_hand(model.norm, model.a(x)[..., kept], kept)
        expected = functional.linear(y, model.b.weight[:, kept], model.b.bias)
        torch.testing.assert_close(slice_model(model, units, [width])(x), expected)
        with mode(), masked(model, units, [width]) as twin:
            actual = twin(x)
        torch.testing.assert_close(actual, expected)


class Whisper(nn.Module):
    """A branch that counts for a millionth, as layer scales let it at the start."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(5, 12), branch, nn.Linear(12, 4)
        self.scale = nn.Parameter(torch.full((12,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        out: Tensor = self.head(x + self.scale * self.branch(x))
        return out


class Matrices(nn.Module):
    """Two layers without modules of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.empty(8, 12)), nn.Parameter(torch.empty(12, 8))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(torch.relu(functional.linear(x, self.up)), self.down)


class Attending(nn.Module):
    """Attention of the words to themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(12, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return out


@pytest.mark.parametrize(
    "branch",
    [
        lambda: nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 12)),
        Matrices,
        Attending,
    ],
    ids=["modules", "matrices", "attention"],
)
def test_a_mistake_behind_a_tiny_layer_scale_is_seen(branch):
    model, generator = Whisper(branch()).eval(), torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name != "scale":
            nn.init.normal_(parameter, std=0.5, generator=generator)
    x = torch.randn(2, 6, 5, generator=generator)
    units = find_units(model, x)
    number = next(n for n, unit in enumerate(units) if unit.name.startswith("branch"))
    widths = list(units.dense_widths)
    widths[number] //= 2
    assert verify(model, slice_model(model, units, widths), units, widths, x) < 1e-5
    for position, slot in enumerate(units[number].slots):
        if slot.purpose not in ("size", "count"):
            wrong = rolled(units, number, position)
            with pytest.raises(VerificationError, match="differs from the masked twin's by"):
                verify(model, slice_model(model, wrong, widths), wrong, widths, x)


def test_layers_that_are_called_several_times_are_compared_call_by_call():
    """A mistake in the second call alone."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 2)
            self.slip = 0.0

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.b(self.a(x)), self.b(self.a(x) + self.slip)
            return first + 1e-6 * second

    model, x = Twice(), torch.ones(3, 5)
    units = find_units(model, x)
    small = slice_model(model, units, [3])
    assert verify(model, small, units, [3], x) < 1e-5
    small.slip = 0.1
    with pytest.raises(VerificationError, match="b differs from the masked twin's"):
        verify(model, small, units, [3], x)


def test_random_numbers_in_evaluation_are_no_reason_to_accept(tiny):
    """A network that is not a function of its inputs cannot be proven, and says so."""
    model, x = tiny
    units = find_units(model, x)
    small = slice_model(model, units, [5, 3])
    forward = small.forward
    small.forward = lambda x: forward(x) + 0.01 * torch.rand(2, 4)
    with torch.random.fork_rng(), pytest.raises(VerificationError, match="differs from"):
        verify(model, small, units, [5, 3], x)


@pytest.mark.parametrize(
    ("name", "kind"), [("resnet", torch.float16), ("encoder", torch.bfloat16)], ids=str
)
def test_a_network_in_half_precision_is_proven_as_well(name, kind):
    s = family(name)
    model = copy.deepcopy(s.model).to(kind)
    inputs = [x.to(kind) if x.is_floating_point() else x for x in s.inputs]
    units = find_units(model, inputs)
    assert [unit.name for unit in units] == [unit.name for unit in s.units]
    widths = middle(units)
    verify(model, slice_model(model, units, widths), units, widths, inputs)


class Chaos(nn.Module):
    """Magnifies a change of its hidden channels some hundred million times."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 300), nn.Linear(300, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.b(self.a(x).relu())
        for _ in range(4):
            out = torch.sin(100 * out)
        return out


def test_rounding_that_a_network_magnifies_is_no_mistake_and_a_mistake_no_rounding():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Chaos()
    x = torch.randn(8, 5, generator=torch.Generator().manual_seed(1))
    units = find_units(model, x)
    small = slice_model(model, units, [171])
    with torch.inference_mode():
        with masked(model, units, [171]) as twin:
            expected = twin(x)
        assert (small(x) - expected).abs().max() > 1e-2
    assert verify(model, small, units, [171], x) < 1e-6
    with torch.no_grad():
        small.b.weight[0, 0] += 1e-6
    with pytest.raises(VerificationError, match="differs from"):
        verify(model, small, units, [171], x)
