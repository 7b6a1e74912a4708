"""Attention with grouped keys, rotations, norms of single channels, grouped upsampling."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Conv2d, ConvTranspose2d, Linear, functional

from tests.by_hand import Net, check, seeded

QKVO = "k.bias:0 k.weight:0 o.weight:1 q.bias:0 q.weight:0 v.bias:0 v.weight:0"


def split(s: Any, x: Tensor) -> Any:
    """Queries in 4 heads, keys and values in 2, of 3 channels."""
    return ((f(x).view(*x.shape[:-1], -1, 3).transpose(1, 2)) for f in (s.q, s.k, s.v))


def joined(s: Any, y: Tensor) -> Tensor:
    return s.o(y.transpose(1, 2).flatten(2))


def by_option(s: Any, x: Tensor) -> Tensor:
    q, k, v = split(s, x)
    return joined(s, functional.scaled_dot_product_attention(q, k, v, enable_gqa=True))


def by_expansion(s: Any, x: Tensor) -> Tensor:
    q, *kv = split(s, x)
    k, v = (y[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for y in kv)
    return joined(s, (q @ k.mT).softmax(-1) @ v)


def by_repetition(s: Any, x: Tensor) -> Tensor:
    q, *kv = split(s, x)
    k, v = (torch.repeat_interleave(y, 2, dim=1) for y in kv)
    return joined(s, functional.scaled_dot_product_attention(q, k, v, is_causal=True))


def shared(s: Any, x: Tensor) -> Tensor:
    """Keys and values of one head for all: it is broadcast."""
    q = s.q(x).view(*x.shape[:-1], -1, 6).transpose(1, 2)
    k, v = (f(x)[:, None] for f in (s.k, s.v))
    return joined(s, functional.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("function", [by_option, by_expansion, by_repetition])
def test_a_head_of_keys_goes_together_with_its_group_of_queries(function):
    model = seeded(
        lambda: Net(function, q=Linear(4, 12), k=Linear(4, 6), v=Linear(4, 6), o=Linear(12, 2))
    )
    check(model, torch.randn(2, 5, 4), {"q": (2, QKVO)})


def test_one_head_of_keys_for_all_ties_all():
    model = seeded(
        lambda: Net(
            shared,
            q=Linear(4, 12),
            k=Linear(4, 6),
            v=Linear(4, 6),
            o=nn.Sequential(Linear(12, 4), Linear(4, 2)),
        )
    )
    check(
        model,
        torch.randn(2, 5, 4),
        {"o.0": (4, "o.0.bias:0 o.0.weight:0 o.1.weight:1")},
        {"q": "its channels are mixed by scaled_dot_product_attention"},
    )


def rotated(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    pairs = torch.view_as_complex(y.reshape(*y.shape[:-1], -1, 2))
    turned = pairs * torch.polar(torch.ones(5), torch.arange(5.0))[:, None]
    return s.o(torch.view_as_real(turned).flatten(2))


def test_the_two_parts_of_a_complex_number_go_together():
    model = seeded(lambda: Net(rotated, a=Linear(4, 8), o=Linear(8, 2)))
    check(model, torch.randn(2, 5, 4), {"a": (4, "a.bias:0 a.weight:0 o.weight:1")})


def test_a_group_norm_of_single_channels_loses_them_one_by_one():
    model = seeded(lambda: nn.Sequential(Conv2d(3, 6, 1), nn.GroupNorm(6, 6), Conv2d(6, 2, 1)))
    uses = "0.bias:0 0.weight:0 1.bias:0 1.weight:0 2.weight:1"
    check(model, torch.randn(2, 3, 4, 4), {"0": (6, uses)})


UP = {
    "by itself": (ConvTranspose2d(8, 8, 2, 2, groups=8), {"0": (8, "0 1.bias:0 1.weight:0 2")}),
    "twice": (ConvTranspose2d(8, 16, 2, 2, groups=8), {"0": (8, "0 1.bias:0 1.weight:0 2")}),
    "in groups": (
        ConvTranspose2d(8, 12, 2, 2, groups=4),
        {"0": (2, "0 1.weight:0"), "1": (3, "1.bias:0 1.weight:1 2")},
    ),
}


@pytest.mark.parametrize("name", UP)
def test_transposed_convolutions_in_groups(name):
    """By groups of single channels they ride along; else the i-th of each group go together."""
    up, units = UP[name]
    model = seeded(lambda: nn.Sequential(Conv2d(3, 8, 1), up, Conv2d(up.out_channels, 2, 1)))
    ends = {"0": "0.bias:0 0.weight:0", "2": "2.weight:1"}
    expected = {
        unit: (width, " ".join(ends.get(word, word) for word in uses.split()))
        for unit, (width, uses) in units.items()
    }
    check(model, torch.randn(2, 3, 4, 4), expected)


def positioned(s: Any, x: Tensor) -> Tensor:
    """XLNet's: a table of positions times a weight of (in, heads, size), by itself."""
    q = s.q(x).unflatten(-1, (-1, 3))
    keys = torch.einsum("jd,dnh->jnh", s.table, s.r)
    scores = torch.einsum("binh,jnh->bnij", q, keys)
    k = s.k(x).unflatten(-1, (-1, 3))
    return s.o(torch.einsum("bnij,bjnh->binh", scores, k).flatten(2))


def test_a_product_of_stored_tensors_costs_what_is_left_of_its_merged_dimensions():
    model = seeded(
        lambda: Net(
            positioned,
            q=Linear(4, 12),
            k=Linear(4, 12),
            r=nn.Parameter(torch.randn(4, 4, 3)),
            table=torch.randn(5, 4),
            o=Linear(12, 2),
        )
    )
    uses = "k.bias:0 k.weight:0 o.weight:1 q.bias:0 q.weight:0 r:1"
    check(model, torch.randn(2, 5, 4), {"q": (4, uses)})
