"""Writes into a part of a tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Conv2d

from tests.by_hand import Net, check, seeded

A, B = "a.bias:0 a.weight:0", "b.bias:0 b.weight:0"


def side_by_side(s: Any, x: Tensor) -> Tensor:
    """A concatenation by two writes."""
    a, b = s.a(x), s.b(x)
    y = torch.zeros(len(x), a.shape[1] + b.shape[1], *x.shape[2:])
    y[:, : a.shape[1]] = a
    y[:, a.shape[1] :] = b
    return s.c(y)


def through_views(s: Any, x: Tensor) -> Tensor:
    """What is written to a view of a view is read by another."""
    a = s.a(x)
    y = torch.zeros(a.shape).permute(1, 0, 2, 3)
    y.transpose(0, 1)[...] = a
    b = s.b(x)
    return s.c(torch.cat([y.transpose(1, 0), b], 1))


def partial(s: Any, x: Tensor) -> Tensor:
    """FasterNet's partial convolution: the first channels are replaced."""
    y = torch.cat([s.a(x), s.b(x)], 1).clone()
    y[:, : s.k] = s.p(y[:, : s.k])
    return s.c(y)


def doubled(s: Any, x: Tensor) -> Tensor:
    """One of three parts changes in place."""
    y = torch.cat([s.a(x), s.b(x)], 1)
    y.unflatten(1, (3, -1))[:, 1].mul_(2)
    return s.c(y)


def test_channels_that_are_written_are_read_behind():
    expected = {"a": (8, f"{A} c.weight:1"), "b": (4, f"{B} c.weight:1")}
    for function in (side_by_side, through_views):
        model = seeded(
            lambda function=function: Net(
                function, a=Conv2d(3, 8, 1), b=Conv2d(3, 4, 1), c=Conv2d(12, 2, 1)
            )
        )
        check(model, torch.randn(2, 3, 4, 4), expected)


def test_a_partial_convolution_is_tied_to_what_it_replaces():
    model = seeded(
        lambda: Net(
            partial,
            a=Conv2d(3, 3, 1),
            b=Conv2d(3, 5, 1),
            p=Conv2d(3, 3, 3, padding=1),
            c=Conv2d(8, 2, 1),
            k=3,
        )
    )
    check(
        model,
        torch.randn(2, 3, 4, 4),
        {
            "a": (3, f"{A} c.weight:1 k:0 p.bias:0 p.weight:0 p.weight:1"),
            "b": (5, f"{B} c.weight:1"),
        },
    )


def test_in_place_arithmetic_leaves_channels_as_they_are():
    """12 channels as 3 times 4: the i-th of each go together, across both layers."""
    model = seeded(lambda: Net(doubled, a=Conv2d(3, 4, 1), b=Conv2d(3, 8, 1), c=Conv2d(12, 2, 1)))
    check(model, torch.randn(2, 3, 4, 4), {"a": (4, f"{A} {B} c.weight:1")})


def literal(s: Any, x: Tensor) -> Tensor:
    """The code fixes how many channels it writes."""
    y = torch.zeros(2, 8, 4, 4)
    y[:, :8] = s.a(x)
    return s.c(y)


def test_sizes_that_the_code_fixes_keep_the_channels():
    model = seeded(
        lambda: Net(literal, a=Conv2d(3, 8, 1), c=nn.Sequential(Conv2d(8, 4, 1), Conv2d(4, 2, 1)))
    )
    check(
        model,
        torch.randn(2, 3, 4, 4),
        {"c.0": (4, "c.0.bias:0 c.0.weight:0 c.1.weight:1")},
        {"a": "the sliced network fails"},
    )
