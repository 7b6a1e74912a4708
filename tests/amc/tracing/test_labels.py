"""Weights that a forward computes, constants in the size of channels, tables, statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Conv2d, Linear, functional
from torch.nn.utils import parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from amc.pruning.find_units import find_units
from tests.by_hand import Net, check_plans, check_widths, seeded

pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
IMAGES, TOKENS = (2, 3, 8, 8), (2, 5, 6)


def given(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.5 * torch.randn(shape) + 0.1)


def made(compute: Callable[..., Tensor], **parts: Any) -> Callable[[int, int], nn.Module]:
    """A linear layer whose weight is computed of ``parts``, which are given their shapes."""

    def layer(inputs: int, outputs: int) -> nn.Module:
        sizes = {"i": inputs, "o": outputs}
        own = {
            name: given(*(sizes.get(size, size) for size in part)) for name, part in parts.items()
        }
        return Net(lambda s, x: functional.linear(x, compute(s)), **own)

    return layer


def by(transform: Callable[..., nn.Module], **options: Any) -> Callable[[int, int], nn.Module]:
    return lambda inputs, outputs: transform(Linear(inputs, outputs), **options)


def masked(inputs: int, outputs: int) -> nn.Module:
    layer = Linear(inputs, outputs)
    prune.l1_unstructured(layer, "weight", 0.5)
    prune.random_unstructured(layer, "bias", 0.5)
    return layer


class Scaled(nn.Module):
    """A parametrization with a parameter of its own."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.gain = given(outputs, 1)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.gain


def parametrized(inputs: int, outputs: int) -> nn.Module:
    layer = Linear(inputs, outputs)
    parametrize.register_parametrization(layer, "weight", Scaled(outputs))
    return layer


class Supernet(Linear):
    """Once-for-all: a part of a larger weight, by the layer's own attributes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs + 4, outputs + 3)
        self.active = outputs

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight[: self.active, : x.size(-1)].contiguous()
        return functional.linear(x, weight, self.bias[: self.active])


def standardised(s: Any) -> Tensor:
    """Qiao et al., "Weight Standardization", 2019, as its authors publish it."""
    weight = s.w - s.w.mean(1, keepdim=True)
    return weight / (weight.view(weight.size(0), -1).std(1).view(-1, 1) + 1e-5)


def straight_through(s: Any) -> Tensor:
    scale = s.w.abs().mean(1, keepdim=True)
    return (s.w.sign() * scale).detach() + s.w - s.w.detach()


LAYERS: dict[str, Callable[[int, int], nn.Module]] = {
    "weight norm": by(weight_norm),
    "weight norm over the inputs": by(weight_norm, dim=1),
    "weight norm of the whole": by(weight_norm, dim=None),
    "weight norm, the old form": by(old_weight_norm),
    "spectral norm": by(spectral_norm),
    "spectral norm, the old form": by(old_spectral_norm),
    "masks": masked,
    "a parametrization": parametrized,
    "a part of a larger weight": Supernet,
    "a constant scale": made(lambda s: s.w * 0.3, w=("o", "i")),
    "a gain for each output": made(lambda s: s.w * s.g[:, None], w=("o", "i"), g=("o",)),
    "a gain for each input": made(lambda s: s.g * s.w, w=("o", "i"), g=("i",)),
    "transposed": made(lambda s: s.w.t(), w=("i", "o")),
    "low-rank terms": made(lambda s: s.w + s.b @ s.a, w=("o", "i"), a=(2, "i"), b=("o", 2)),
    "a mixture": made(lambda s: (s.w * s.m[:, None, None]).sum(0), w=(3, "o", "i"), m=(3,)),
    "standardised": made(standardised, w=("o", "i")),
    "straight through": made(straight_through, w=("o", "i")),
    "merged dimensions": made(lambda s: s.w.mean(2).flatten(0, 1), w=(1, "o", 3, "i")),
    "stacked": made(lambda s: torch.cat([s.w[:2], s.w[2:]]), w=("o", "i")),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_channels_of_a_computed_weight_are_those_of_what_it_is_made_of(name):
    model = seeded(
        lambda: nn.Sequential(
            Linear(6, 16), nn.ReLU(), LAYERS[name](16, 12), nn.ReLU(), Linear(12, 5)
        )
    )
    x = torch.randn(TOKENS)
    found = find_units(model, x)
    assert [(unit.width, unit.granularity) for unit in found] == [(16, 1), (12, 1)]
    assert {f.reason for f in found.frozen} <= {"network output", "no layer reads it"}
    check_plans(model, found, x)


@pytest.mark.parametrize("norm", [weight_norm, old_weight_norm, spectral_norm, old_spectral_norm])
@pytest.mark.parametrize("groups", [1, 2])
def test_norms_of_the_weights_of_convolutions(norm, groups):
    model = seeded(
        lambda: nn.Sequential(
            norm(Conv2d(3, 8, 3)),
            nn.ReLU(),
            norm(Conv2d(8, 12, 3, groups=groups)),
            Conv2d(12, 2, 1),
        )
    )
    units = {"0": (8 // groups, groups), "2": (12 // groups, groups)}
    check_widths(model, torch.randn(IMAGES), units)


def spline(s: Any, x: Tensor) -> Tensor:
    """A KAN layer: a basis of each input, and a weight of three dimensions, of which two merge."""
    y = s.a(x)
    basis = torch.exp(-((y.unsqueeze(-1) - s.grid) ** 2)).flatten(-2)
    return s.o(functional.linear(basis, (s.w * s.scale[..., None]).flatten(1)).relu())


def test_of_merged_dimensions_the_inputs_are_followed():
    model = seeded(
        lambda: Net(
            spline,
            a=Linear(6, 8),
            grid=torch.linspace(-1, 1, 5).expand(8, -1).contiguous(),
            w=given(10, 8, 5),
            scale=given(10, 8),
            o=Linear(10, 3),
        )
    )
    check_widths(model, torch.randn(TOKENS), {"a": (8, 1), "w": (10, 1)})


def test_a_weight_that_cannot_be_cut_leaves_both_sides_alone():
    model = seeded(
        lambda: nn.Sequential(
            Linear(6, 8),
            Net(lambda s, x: functional.linear(x, s.w.view(10, 8)), w=given(80)),
            Linear(10, 4),
            Linear(4, 2),
        )
    )
    frozen = {"0": "linear at test_labels.py"}
    assert check_widths(model, torch.randn(TOKENS), {"2": (4, 1)}, frozen)


# -- constants -----------------------------------------------------------------------------------


def summed(start: Callable[[Any, Tensor], Tensor]) -> Callable[..., Any]:
    """Branches that are added to a constant."""

    def forward(s: Any, x: Tensor) -> Tensor:
        h = s.a(x).relu()
        total = start(s, h)
        for branch in (s.b, s.c):
            total = total + branch(h)
        return s.o(total)

    return forward


STREAM, FREE = {"a": (8, 1)}, {"a": (8, 1), "b": (8, 1)}
STARTS: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, tuple[int, int]]]] = {
    "zeros_like": (lambda _, h: torch.zeros_like(h), STREAM),
    "new_zeros": (lambda _, h: h.new_zeros(h.shape), STREAM),
    "full": (lambda _, h: torch.full(h.shape, 0.5), STREAM),
    "empty": (lambda _, h: torch.empty_like(h).zero_(), STREAM),
    "a size": (lambda _, h: torch.ones(1, h.size(1), 1, 1), STREAM),
    # The attribute counts the branches' channels, whatever h has.
    "an attribute": (lambda s, h: torch.zeros(len(h), s.hidden, *h.shape[2:]), FREE),
    "an attribute, alone": (lambda s, h: h.new_zeros(s.hidden)[:, None, None], FREE),
}


@pytest.mark.parametrize("name", STARTS)
def test_what_is_added_to_a_constant_has_to_stay_as_wide(name):
    start, units = STARTS[name]
    model = seeded(
        lambda: Net(
            summed(start),
            a=Conv2d(3, 8, 3, padding=1),
            b=Conv2d(8, 8, 3, padding=1),
            c=Conv2d(8, 8, 3, padding=1),
            o=Conv2d(8, 2, 1),
            hidden=8,
        )
    )
    found = check_widths(model, torch.randn(IMAGES), units)
    hidden = [slot for unit in found for slot in unit.slots if slot.tensor == "hidden"]
    assert bool(hidden) == (units is FREE)


def recurrence(s: Any, x: Tensor) -> Tensor:
    state = torch.zeros(x.shape[0], s.hidden)
    for step in x.unbind(1):
        state = torch.tanh(s.inputs(step) + s.state(state))
    return s.o(state)


def joined(s: Any, x: Tensor) -> Tensor:
    state = x.new_zeros(x.shape[0], s.hidden)
    for step in x.unbind(1):
        state = torch.tanh(s.inputs(torch.cat([step, state], 1)))
    return s.o(state)


@pytest.mark.parametrize("form", ["two layers", "one layer"])
def test_a_state_that_begins_as_zeros(form):
    model = seeded(
        lambda: (
            Net(recurrence, inputs=Linear(6, 8), state=Linear(8, 8), o=Linear(8, 3), hidden=8)
            if form == "two layers"
            else Net(joined, inputs=Linear(14, 8), o=Linear(8, 3), hidden=8)
        )
    )
    check_widths(model, torch.randn(TOKENS), {"inputs": (8, 1)})


# -- tables --------------------------------------------------------------------------------------


def turned(x: Tensor) -> Tensor:
    return torch.cat([-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]], -1)


def rotary(s: Any, x: Tensor) -> Tensor:
    """Su et al., "RoFormer", 2021: the tables are the same for every head."""
    n, t, _ = x.shape
    q, k, v = (f(x).view(n, t, s.heads, -1).transpose(1, 2) for f in (s.q, s.k, s.v))
    q, k = (z * s.cos[:t] + turned(z) * s.sin[:t] for z in (q, k))
    y = functional.scaled_dot_product_attention(q, k, v)
    return s.o(y.transpose(1, 2).reshape(n, t, -1))


def normalised(s: Any, x: Tensor) -> Tensor:
    """Queries and keys are normalised within each head."""
    n, t, _ = x.shape
    q, k, v = (f(x).view(n, t, s.heads, -1).transpose(1, 2) for f in (s.q, s.k, s.v))
    q, k = s.norm(q), k * torch.rsqrt(k.pow(2).mean(-1, keepdim=True) + 1e-6) * s.gain
    y = functional.scaled_dot_product_attention(q, k, v)
    return s.o(y.transpose(1, 2).reshape(n, t, -1))


@pytest.mark.parametrize("function", [rotary, normalised])
def test_tables_and_norms_of_all_heads_do_not_freeze_them(function):
    model = seeded(
        lambda: Net(
            function,
            **{name: Linear(6, 32) for name in "qkv"},
            o=Linear(32, 5),
            heads=4,
            cos=torch.randn(9, 8),
            sin=torch.randn(9, 8),
            norm=nn.LayerNorm(8),
            gain=given(8),
        )
    )
    check_widths(model, torch.randn(TOKENS), {"q": (4, 8)})


# -- statistics over channels ---------------------------------------------------------------------


def root_mean_square(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    return s.o(y * torch.rsqrt(y.pow(2).mean(1, keepdim=True) + 1e-6) * s.w)


def layer_norm(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    mean = y.mean(1, keepdim=True)
    variance = (y - mean).pow(2).mean(1, keepdim=True)
    return s.o(s.w * (y - mean) / torch.sqrt(variance + 1e-6))


def gate(s: Any, x: Tensor) -> Tensor:
    """CBAM's: Woo et al., 2018."""
    y = s.a(x)
    seen = torch.cat([y.mean(1, keepdim=True), y.max(1, keepdim=True)[0]], 1)
    return s.o(y * torch.sigmoid(s.g(seen)))


def groups(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    rows = y.view(len(y), 4, -1)
    rows = (rows - rows.mean(-1, keepdim=True)) / (rows.var(-1, keepdim=True) + 1e-5).sqrt()
    return s.o(rows.view(y.shape) * s.w)


def unit_length(s: Any, x: Tensor) -> Tensor:
    return s.o(functional.normalize(s.a(x), dim=1) * s.w)


GATE = {"g": "broadcast over channels"}


@pytest.mark.parametrize(
    ("function", "unit", "frozen"),
    [
        (root_mean_square, (16, 1), None),
        (layer_norm, (16, 1), None),
        (gate, (16, 1), GATE),
        (groups, (4, 4), None),
        (unit_length, (16, 1), None),
    ],
)
def test_statistics_are_those_of_the_kept_channels(function, unit, frozen):
    own = {"g": Conv2d(2, 1, 3, padding=1)} if function is gate else {"w": given(16, 1, 1)}
    model = seeded(lambda: Net(function, a=Conv2d(3, 16, 3), o=Conv2d(16, 2, 1), **own))
    check_widths(model, torch.randn(IMAGES), {"a": unit}, frozen)


@pytest.mark.parametrize("groups", [1, 4])
def test_the_scale_of_a_norm_may_be_computed(groups):
    """As Gemma's, which stores how far its scale is from 1."""
    model = seeded(
        lambda: Net(
            lambda s, x: s.o(functional.group_norm(s.a(x), groups, 1 + s.w)),
            a=Conv2d(3, 16, 3),
            w=given(16),
            o=Conv2d(16, 2, 1),
        )
    )
    check_widths(model, torch.randn(IMAGES), {"a": (16 // groups, groups)})


@pytest.mark.parametrize("form", ["positions", "values", "a comparison"])
def test_channels_whose_order_or_number_is_the_result_stay(form):
    choose = {
        "positions": lambda y: y.max(1)[1],
        "values": lambda y: y.max(1)[0],
        "a comparison": lambda y: y.argmax(1) == 1,
    }[form]
    model = seeded(
        lambda: Net(lambda s, x: choose(s.o(s.a(x).relu())), a=Conv2d(3, 8, 3), o=Conv2d(8, 5, 1))
    )
    reason = {} if form == "values" else {"o": "their order counts: "}
    check_widths(model, torch.randn(IMAGES), {"a": (8, 1)}, reason)
