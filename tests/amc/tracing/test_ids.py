"""Channel ids: union, freezing, uses, and the stride-0 form, on cases small enough to work out."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from amc.tracing.ids import ChannelIds, compress, core


def test_fresh_ids_are_consecutive_and_never_zero():
    ids = ChannelIds()
    assert ids.fresh(3).tolist() == [1, 2, 3]
    assert ids.fresh(2).tolist() == [4, 5]


def test_uniting_agrees_with_a_brute_force_closure():
    generator = np.random.default_rng(0)
    for _ in range(20):
        ids = ChannelIds()
        ids.fresh(12)
        pairs = generator.integers(0, 13, (8, 2))  # 0 takes part, and must tie nothing
        classes = [{i} for i in range(13)]
        for a, b in pairs:
            ids.unite(torch.tensor([a]), torch.tensor([b]))
            if a and b:
                merged = classes[a] | classes[b]
                for member in merged:
                    classes[member] = merged
        for a, b in itertools.product(range(1, 13), repeat=2):
            assert (ids.find(a) == ids.find(b)) == (b in classes[a])
        assert all(ids.find(i) == min(classes[i]) for i in range(1, 13))


def test_uniting_broadcasts_and_survives_very_many_pairs():
    ids = ChannelIds()
    left, right = ids.fresh(100), ids.fresh(100)
    ids.unite(left.view(1, 100, 1), right.view(1, 100, 1).expand(3, 100, 50))
    assert [ids.find(i) for i in right.tolist()] == left.tolist()
    ids.unite(left[:1], right)
    assert {ids.find(i) for i in (left.tolist() + right.tolist())} == {1}


@pytest.mark.parametrize(
    ("shape", "changing"),
    [((2, 5, 3), (1,)), ((4, 3), (0, 1)), ((7,), ()), ((), ()), ((1, 6, 1, 1), (1,))],
)
def test_compressing_keeps_the_values_and_one_element_along_constant_dimensions(shape, changing):
    small = [size if dim in changing else 1 for dim, size in enumerate(shape)]
    ids = torch.arange(1, 1 + int(np.prod(small))).reshape(small).expand(shape)
    found = compress(ids.clone(memory_format=torch.contiguous_format))
    assert torch.equal(found, ids)
    assert list(core(found).shape) == small


def test_ids_along_a_dimension_tie_what_shares_an_index():
    ids = ChannelIds()
    block = ids.fresh(6).view(2, 3)
    assert ids.along(block, 1).tolist() == [4, 5, 6]
    assert [ids.find(i) for i in range(1, 7)] == [1, 2, 3, 1, 2, 3]
    single = ids.fresh(1).expand(2, 4)
    assert ids.along(single, 1).tolist() == [7] * 4  # one channel behind all four indices
    assert ids.along(torch.tensor([[0, 8], [0, 0]]), 1).tolist() == [0, 8]


def test_an_index_without_a_channel_in_one_use_only_is_frozen():
    ids = ChannelIds()
    first, second = ids.fresh(3), ids.fresh(3)
    assert ids.use("w", 0, "out", first).tolist() == [1, 2, 3]
    assert ids.use("w", 0, "out", torch.tensor([4, 0, 6])).tolist() == [1, 2, 3]
    settled = ids.settle()
    assert [use.ids.tolist() for use in settled.uses] == [[1, 2, 3]]
    assert settled.frozen == {2: "w is shared unevenly"}
    assert [ids.find(i) for i in second.tolist()] == [1, 5, 3]


def test_the_first_reason_stays_and_follows_the_united_channel():
    ids = ChannelIds()
    channels = ids.fresh(3)
    ids.freeze(channels[1:], "first")
    ids.freeze(channels, "second")
    ids.freeze(torch.zeros(2, dtype=torch.int64), "nothing")
    ids.unite(channels[:1], channels[1:2])
    assert ids.settle().frozen == {1: "first", 3: "first"}


def test_settled_uses_speak_of_united_channels():
    ids = ChannelIds()
    a, b = ids.fresh(2), ids.fresh(2)
    ids.use("a", 0, "out", a)
    ids.use("b", 1, "in", b)
    ids.unite(a, b.flip(0))
    uses = ids.settle().uses
    assert [(use.tensor, use.dim, use.purpose, use.ids.tolist()) for use in uses] == [
        ("a", 0, "out", [1, 2]),
        ("b", 1, "in", [2, 1]),
    ]


def test_what_mixes_channels_ties_them_and_is_remembered():
    ids = ChannelIds()
    channels = ids.fresh(4)
    assert int(ids.tie(channels[1:3], "softmax")) == 2
    assert int(ids.tie(torch.zeros(3, dtype=torch.int64), "nothing")) == 0
    ids.unite(channels[:1], channels[1:2])
    assert ids.settle().ties == {1: "softmax"}
    assert [ids.find(i) for i in (1, 2, 3, 4)] == [1, 1, 1, 4]
