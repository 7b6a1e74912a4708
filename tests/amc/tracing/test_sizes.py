"""Sizes that forwards take from attributes: followed where they count channels, else left alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Conv2d, Linear, functional

from amc.errors import ModelError
from amc.pruning.find_units import find_units
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify
from amc.tracing.sizes import Tagged, set_size, tagged
from amc.tracing.trace import trace


class Net(nn.Module):
    """A forward over modules and plain attributes."""

    def __init__(self, function: Callable[..., Tensor], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Point(NamedTuple):
    """A tuple of a class of its own."""

    x: int
    y: int


PLAIN: dict[str, Any] = {
    "number": 8,
    "one": 1,
    "negative": -1,
    "flag": True,
    "text": "8",
    "fraction": 8.0,
    "listed": [4, 8],
    "paired": (4, 8),
    "mixed": [4, "8", None],
    "nested": [[4, 8], (2, [8])],
    "mapped": {"a": 8, "b": [8]},
    "named": Point(4, 8),
    "size": torch.Size([4, 8]),
    "empty": [],
    "numbers": range(8),
    "called": len,
}


def plain_types(value: Any) -> Any:
    """The type of a value and of everything in it."""
    if isinstance(value, list | tuple):
        return (type(value), [plain_types(part) for part in value])
    if isinstance(value, dict):
        return (type(value), {key: plain_types(part) for key, part in value.items()})
    return type(value)


@pytest.mark.parametrize("fails", [False, True])
def test_attributes_come_back_as_they_were(fails):
    def forward(s: Any, x: Tensor) -> Tensor:
        assert isinstance(s.number, Tagged)
        if fails:
            raise ZeroDivisionError
        return s.inner(x).view(-1, s.number)

    inner = Net(lambda s, x: s.layer(x), layer=Linear(3, 8), **PLAIN)
    model = Net(forward, inner=inner, **PLAIN)
    before = {id(m): dict(vars(m)) for m in model.modules()}
    if fails:
        with pytest.raises(ModelError):
            trace(model, torch.ones(2, 3))
    else:
        trace(model, torch.ones(2, 3))
    for module in model.modules():
        after = vars(module)
        assert list(after) == list(before[id(module)])
        for name, value in after.items():
            assert value is before[id(module)][name], name
    for holder in (model, inner):
        for name, value in PLAIN.items():
            assert getattr(holder, name) == value
            assert plain_types(getattr(holder, name)) == plain_types(value)


def test_inside_attributes_behave_as_the_numbers_that_they_are():
    model = Net(lambda _, x: x, **PLAIN)
    with tagged(model):
        for name, value in PLAIN.items():
            assert getattr(model, name) == value
        assert model.number.source == "number"
        assert [x.source for x in model.listed] == ["listed.0", "listed.1"]
        assert type(model.listed) is list
        assert type(model.paired) is tuple
        assert model.flag is True
        assert type(model.one) is int
        assert isinstance(model.named, Point)
        assert isinstance(model.size, torch.Size)


def test_sizes_are_set_by_path():
    model = Net(lambda _, x: x, inner=Net(lambda _, x: x, **PLAIN), **PLAIN)
    set_size(model, "number", 5)
    set_size(model, "inner.number", 6)
    set_size(model, "inner.listed.1", 7)
    set_size(model, "paired.0", 3)
    assert (model.number, model.inner.number) == (5, 6)
    assert (model.listed, model.inner.listed) == ([4, 8], [4, 7])
    assert (model.paired, model.inner.paired) == ((3, 8), (4, 8))
    assert PLAIN["listed"] == [4, 8]  # a list that others hold is not changed


class Kind(Enum):
    """Constants that all networks share."""

    WIDE = 8


@dataclass(frozen=True)
class Settings:
    """A configuration that forbids changes."""

    heads: int = 4


def test_integers_of_configurations_are_set_by_path():
    shared = SimpleNamespace(width=8, sides=[4, 8], name="x", flag=True)
    held = {"shared": shared, "cfg": {"width": 8}, "frozen": Settings()}
    left = {"kind": Kind.WIDE, "library": math, "mapped": {1: 8}, "called": len}
    model = Net(lambda _, x: x, inner=Net(lambda _, x: x, config=shared), **held, **left)
    with tagged(model):
        assert [shared.width.source, shared.sides[1].source] == ["shared.width", "shared.sides.1"]
        assert model.cfg["width"].source == "cfg.width"
        assert model.frozen.heads.source == "frozen.heads"
        assert type(model.kind.value) is type(model.mapped[1]) is int
    assert plain_types([shared.width, shared.flag, *shared.sides]) == plain_types([8, True, 4, 8])
    set_size(model, "inner.config.width", 5)
    set_size(model, "shared.sides.0", 3)
    set_size(model, "cfg.width", 7)
    set_size(model, "frozen.heads", 2)
    assert (shared.width, shared.sides, model.cfg, model.frozen.heads) == (
        5,
        [3, 8],
        {"width": 7},
        2,
    )
    for wrong in ("shared.depth", "kind._value_", "mapped.1", "_buffers.x", "library.pi"):
        with pytest.raises((AttributeError, TypeError)):
            set_size(model, wrong, 2)


@dataclass(frozen=True)
class Case:
    """A network whose code takes sizes from attributes, and those of a slice of it."""

    model: Callable[[], nn.Module]
    widths: list[int]
    sizes: dict[str, Any]
    """All plain attributes of the slice."""
    shape: tuple[int, ...] = (2, 3, 4, 4)


def tail(s: Any, x: Tensor) -> Tensor:
    return s.b(x)


def convs(width: int = 8, read: int = 8) -> dict[str, nn.Module]:
    return {"a": Conv2d(3, width, 1), "b": Conv2d(read, 2, 1)}


def flat(s: Any, x: Tensor) -> Tensor:
    return s.b(torch.relu(s.a(x)).mean((2, 3)).view(-1, s.width))


def attend(s: Any, x: Tensor) -> Tensor:
    n, t, _ = x.shape
    q, k, v = (f(x).view(n, t, s.heads, s.size).transpose(1, 2) for f in (s.q, s.k, s.v))
    y = (q @ k.transpose(2, 3)).softmax(3) @ v
    return s.o(y.transpose(1, 2).reshape(n, t, s.heads * s.size))


def projections() -> dict[str, Any]:
    return {name: Linear(6, 12) for name in "qkv"} | {"o": Linear(12, 2), "heads": 4, "size": 3}


def partial_convolution(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    y[:, : s.k] = s.p(y[:, : s.k])
    return s.b(y)


def compared(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    n, c, _, _ = y.shape
    assert (n, c) == (2, s.width)
    if y.size(1) != s.width or s.limit == c or s.limit != 9:
        raise ValueError
    return s.b(y)


def configured(s: Any, x: Tensor) -> Tensor:
    n, t, _ = x.shape
    shape = (*x.size()[:-1], s.config.heads, s.config.size)
    q, k, v = (f(x).view(shape).transpose(1, 2) for f in (s.q, s.k, s.v))
    y = functional.scaled_dot_product_attention(q, k, v)
    return s.o(y.transpose(1, 2).reshape(n, t, s.config.width))


RESIZED: dict[str, Case] = {
    "sizes of a configuration": Case(
        lambda: Net(
            configured,
            **{k: v for k, v in projections().items() if k not in ("heads", "size")},
            config=SimpleNamespace(heads=4, size=3, width=12),
        ),
        [3],
        {"config": SimpleNamespace(heads=3, size=3, width=9)},
        (2, 5, 6),
    ),
    "compared to a shape": Case(
        lambda: Net(compared, **convs(), width=8, limit=9), [5], {"width": 5, "limit": 9}
    ),
    "in-place writes": Case(
        lambda: Net(
            partial_convolution,
            a=Conv2d(3, 8, 1),
            p=Conv2d(3, 3, 3, padding=1),
            k=3,
            b=Conv2d(8, 2, 1),
        ),
        [1, 3],
        {"k": 1},
    ),
    "view": Case(lambda: Net(flat, a=Conv2d(3, 8, 1), b=Linear(8, 2), width=8), [5], {"width": 5}),
    "reshape by a list": Case(
        lambda: Net(
            lambda s, x: s.b(s.a(x).flatten(2).reshape(s.shape).unflatten(2, (4, 4))),
            **convs(),
            shape=(2, 8, 16),
        ),
        [5],
        {"shape": (2, 5, 16)},
    ),
    "split by a list": Case(
        lambda: Net(
            lambda s, x: s.b(torch.cat(s.a(x).split(s.parts, 1)[::-1], 1)), **convs(), parts=[3, 5]
        ),
        [2, 4],
        {"parts": [2, 4]},
    ),
    "equal splits": Case(
        lambda: Net(
            lambda s, x: s.b((h := torch.split(s.a(x), s.half, dim=1))[0] * h[1].sigmoid()),
            **convs(read=4),
            half=4,
        ),
        [3],
        {"half": 3},
    ),
    "slice": Case(
        lambda: Net(
            lambda s, x: (y := s.a(x), s.b(y[:, : s.k]) + s.c(y[:, s.k :]))[1],
            a=Conv2d(3, 8, 1),
            b=Conv2d(3, 2, 1),
            c=Conv2d(5, 2, 1),
            k=3,
        ),
        [2, 4],
        {"k": 2},
    ),
    "slice after an ellipsis": Case(
        lambda: Net(
            lambda s, x: (y := s.a(x), s.b(y[..., s.k :]) + s.c(y[..., 0 : s.k]))[1],
            a=Linear(4, 8),
            b=Linear(5, 2),
            c=Linear(3, 2),
            k=3,
        ),
        [2, 4],
        {"k": 2},
    ),
    "narrow": Case(
        lambda: Net(
            lambda s, x: (y := s.a(x), s.b(y.narrow(1, 0, s.k)) + s.c(y.narrow(1, s.k, s.rest)))[1],
            a=Conv2d(3, 8, 1),
            b=Conv2d(3, 2, 1),
            c=Conv2d(5, 2, 1),
            k=3,
            rest=5,
        ),
        [1, 2],
        {"k": 1, "rest": 2},
    ),
    "unflatten": Case(
        lambda: Net(
            lambda s, x: s.b(s.a(x).unflatten(1, (2, s.half)).transpose(1, 2).flatten(1, 2)),
            **convs(),
            half=4,
        ),
        [3],
        {"half": 3},
    ),
    "heads": Case(lambda: Net(attend, **projections()), [3], {"heads": 3, "size": 3}, (2, 5, 6)),
}


def found(model: nn.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(model).items()
        if isinstance(value, int | list | tuple | SimpleNamespace)
        and name != "training"
        and not name.startswith("_")
    }


@pytest.mark.parametrize("case", RESIZED.values(), ids=RESIZED)
def test_sizes_follow_the_channels_that_they_count(case):
    model, x = case.model(), torch.randn(case.shape, generator=torch.Generator().manual_seed(0))
    before = copy.deepcopy(found(model))
    units = find_units(model, x)
    small = slice_model(model, units, case.widths)
    assert found(small) == case.sizes
    assert all(
        type(a) is type(b) for a, b in zip(found(small).values(), before.values(), strict=True)
    )
    assert found(model) == before
    assert verify(model, small, units, case.widths, x) < 1e-5


def pooled(s: Any, x: Tensor) -> Tensor:
    y = nn.functional.adaptive_avg_pool2d(s.a(x), s.side)
    return s.b(y).reshape(-1, 2, s.side, s.side)


def tokens(s: Any, x: Tensor) -> Tensor:
    """8 tokens, 8 channels: the tokens keep their number."""
    y = s.a(x.flatten(2).transpose(1, 2))
    return s.b(y.view(-1, s.count, y.shape[2])[:, : s.count])


def repeated(s: Any, x: Tensor) -> Tensor:
    for _ in range(s.times):
        x = x + 0.1 * s.up(torch.relu(s.down(x)))
    return s.b(x) / s.times


COINCIDENCES: dict[str, Case] = {
    "a side of the feature map": Case(
        lambda: Net(pooled, a=Conv2d(3, 4, 1), b=Conv2d(4, 2, 1), side=4), [3], {"side": 4}
    ),
    "a number of tokens": Case(
        lambda: Net(tokens, a=Linear(3, 8), b=Linear(8, 2), count=8), [5], {"count": 8}, (2, 3, 8)
    ),
    "a number of repetitions": Case(
        lambda: Net(repeated, down=Conv2d(3, 4, 1), up=Conv2d(4, 3, 1), b=Conv2d(3, 2, 1), times=4),
        [3],
        {"times": 4},
    ),
    "a size of the batch": Case(
        lambda: Net(lambda s, x: s.b(s.a(x).view(s.batch, -1, 4, 4)), **convs(), batch=8),
        [5],
        {"batch": 8},
        (8, 3, 4, 4),
    ),
    "the network's outputs": Case(
        lambda: Net(
            lambda s, x: s.b(s.a(x)).mean((2, 3)).view(-1, s.classes),
            a=Conv2d(3, 8, 1),
            b=Conv2d(8, 8, 1),
            classes=8,
        ),
        [5],
        {"classes": 8},
    ),
    "a slice of the positions": Case(
        lambda: Net(lambda s, x: s.b(s.a(x)[:, :, : s.rows]), **convs(), rows=8),
        [5],
        {"rows": 8},
        (2, 3, 9, 9),
    ),
    "a stated number that no code reads": Case(
        lambda: Net(lambda s, x: s.b(s.a(x)), **convs(), width=8, seed=8),
        [5],
        {"width": 8, "seed": 8},
    ),
}


@pytest.mark.parametrize("case", COINCIDENCES.values(), ids=COINCIDENCES)
def test_numbers_that_only_happen_to_equal_a_width_stay(case):
    model, x = case.model(), torch.randn(case.shape, generator=torch.Generator().manual_seed(0))
    units = find_units(model, x)
    small = slice_model(model, units, case.widths)
    assert found(small) == case.sizes
    assert verify(model, small, units, case.widths, x) < 1e-5


def test_one_attribute_that_counts_two_things_freezes_what_cannot_follow():
    """``k`` is the place of a split and a number of classes: a slice could not be right."""

    def forward(s: Any, x: Tensor) -> Tensor:
        y = s.a(x)
        return s.b(y[:, : s.k]).mean((2, 3)).view(-1, s.k) + s.c(y[:, s.k :]).mean((2, 3))

    model = Net(forward, a=Conv2d(3, 8, 1), b=Conv2d(3, 3, 1), c=Conv2d(5, 3, 1), k=3)
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    units = find_units(model, x)
    for width in range(1, 5):
        small = slice_model(model, units, [width])
        assert small.k == 3
        assert verify(model, small, units, [width], x) < 1e-5


def test_a_hard_coded_size_is_caught_by_the_proof_and_named():
    def forward(s: Any, x: Tensor) -> Tensor:
        return s.b(torch.relu(s.a(x)).mean((2, 3)).view(-1, 8)) + s.d(s.c(x)).mean((2, 3))

    model = Net(forward, a=Conv2d(3, 8, 1), b=Linear(8, 2), c=Conv2d(3, 6, 1), d=Conv2d(6, 2, 1))
    units = find_units(model, torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)))
    assert [unit.name for unit in units] == ["c"]
    (reason,) = [f.reason for f in units.frozen if f.name == "a"]
    line = forward.__code__.co_firstlineno + 1
    assert reason.startswith("the sliced network fails: ")
    assert reason.endswith(f"(at test_sizes.py:{line})")


def test_one_attribute_that_counts_two_layers_ties_them():
    def forward(s: Any, x: Tensor) -> Tensor:
        first, second = (f(x).mean((2, 3)).view(-1, s.width) for f in (s.a, s.b))
        return s.c(first) + s.d(second)

    model = Net(
        forward,
        **{name: Conv2d(3, 8, 1) for name in "ab"},
        **{name: Linear(8, 2) for name in "cd"},
        width=8,
    )
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    units = find_units(model, x)
    assert [(unit.name, unit.width) for unit in units] == [("a", 8)]
    small = slice_model(model, units, [3])
    assert small.width == 3
    assert [small.a.out_channels, small.b.out_channels] == [3, 3]
    assert verify(model, small, units, [3], x) < 1e-5


@pytest.mark.parametrize(
    "norm",
    [
        lambda net, x: functional.layer_norm(x, net.shape, net.scale),
        lambda net, x: functional.rms_norm(x, (net.width,), weight=net.scale),
        lambda net, x: net.plain(x),
        lambda net, x: net.each(torch.stack([x, x.tanh(), x.sin()], -1))[..., 0],
        lambda net, x: net.apart(x).flatten(1),
    ],
    ids=["layer_norm", "rms_norm", "LayerNorm", "InstanceNorm1d", "Unflatten"],
)
def test_what_no_tensor_tells_is_told_by_attributes(norm):
    """A shape that code hands to a norm, and layers of PyTorch's that have no tensors."""
    torch.manual_seed(0)
    model = Net(
        lambda net, x: net.last(norm(net, net.first(x))),
        first=Linear(3, 8),
        last=Linear(8, 4),
        shape=(8,),
        width=8,
        scale=nn.Parameter(torch.rand(8)),
        plain=nn.LayerNorm(8, elementwise_affine=False),
        each=nn.InstanceNorm1d(8),
        apart=nn.Unflatten(1, (8, 1)),
    )
    x = torch.randn(5, 3)
    (unit,) = units = find_units(model, x)
    assert unit.width == 8
    for width in (2, 3, 7):
        verify(model, slice_model(model, units, [width]), units, [width], x)
