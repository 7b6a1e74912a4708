"""Names that differ in one number, on one line."""

from __future__ import annotations

import pytest

from amc.utils.name_patterns import group_names, shortest_patterns


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        ([], []),
        (["conv"], ["conv"]),
        (["conv1"], ["conv1"]),
        (["conv1", "conv3"], ["conv{1,3}"]),
        (["b.0.x", "b.1.x", "b.2.x"], ["b.{0..2}.x"]),
        (["b.2.x", "b.0.x", "b.5.x", "b.1.x"], ["b.{0..2,5}.x"]),
        (["b.9.x", "b.10.x", "b.11.x"], ["b.{9..11}.x"]),  # as numbers, not as texts
        (["b.0.x", "b.0.y", "b.1.x", "b.1.y"], ["b.{0,1}.x", "b.{0,1}.y"]),
        (["b.0.x", "c.1.x"], ["b.0.x", "c.1.x"]),
        (["0", "1", "head"], ["{0,1}", "head"]),
        # The number that takes in most names is folded.
        (["b.0.c1", "b.0.c2", "b.1.c1", "b.2.c1"], ["b.{0..2}.c1", "b.0.c2"]),
        (["conv", "conv"], ["conv", "conv"]),
    ],
)
def test_patterns(names, patterns):
    assert [pattern for pattern, _ in group_names(names)] == patterns


def test_positions_stand_with_their_pattern_and_each_name_once():
    names = ["b.0.x", "head", "b.1.x", "b.1.y", "b.2.x"]
    assert group_names(names) == [("b.{0..2}.x", [0, 2, 4]), ("head", [1]), ("b.1.y", [3])]


def test_what_is_not_alike_stays_apart():
    names = [f"b.{n}.x" for n in range(5)]
    assert group_names(names, ["a", "a", "b", "b", "a"]) == [
        ("b.{0,1,4}.x", [0, 1, 4]),
        ("b.{2,3}.x", [2, 3]),
    ]


def test_folding_on_where_all_numbers_agree():
    names = [f"layer{a}.{b}.conv2" for a in (1, 2, 3) for b in (0, 1)]
    assert shortest_patterns(["conv1", *names]) == ["conv1", "layer{1..3}.{0,1}.conv2"]
    assert shortest_patterns([*names, "layer4.0.conv2"]) == [
        "layer{1..4}.0.conv2",
        "layer{1..3}.1.conv2",
    ]
