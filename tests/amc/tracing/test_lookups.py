"""Positions picked and put by an index: channels stay what they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Linear

from tests.by_hand import Net, check, seeded

PICKED = torch.tensor([3, 1, 1])


def gathered(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    index = PICKED[None, :, None].repeat(len(y), 1, y.shape[2])
    return s.c(torch.gather(y, 1, index))


def summed(s: Any, x: Tensor) -> Tensor:
    """Messages of a graph: added to the nodes that they go to."""
    y = s.a(x)[0]
    nodes = torch.zeros_like(y).index_add(0, PICKED, s.b(x)[0, :3])
    index = PICKED[:, None].expand(3, y.shape[1])
    return s.c(nodes.scatter_add(0, index, y[:3]))


def by_channel(s: Any, x: Tensor) -> Tensor:
    return s.c(torch.gather(s.a(x), 2, torch.arange(8).flip(0).expand(2, 5, 8)))


def net(function: Any) -> Any:
    return seeded(lambda: Net(function, a=Linear(3, 8), b=Linear(3, 8), c=Linear(8, 2)))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))


def test_gathered_positions_keep_their_channels(x):
    check(net(gathered), x, {"a": (8, "a.bias:0 a.weight:0 c.weight:1")})


def test_what_is_added_at_an_index_meets_what_is_there(x):
    expected = "a.bias:0 a.weight:0 b.bias:0 b.weight:0 c.weight:1"
    check(net(summed), x, {"a": (8, expected)})


def test_channels_picked_by_an_index_stay(x):
    with pytest.raises(Exception, match="nothing can be pruned"):
        check(net(by_channel), x, {})
