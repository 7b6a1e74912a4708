"""What ids ask of each other once all channels are united."""

from __future__ import annotations

import pytest
from torch import Tensor

from amc.tracing.ids import ChannelIds
from amc.tracing.relations import (
    Along,
    Broadcast,
    Contracted,
    Equal,
    Sized,
    Stored,
    reduced,
    split,
)


def roots(ids: ChannelIds, of: Tensor) -> list[int]:
    return [ids.find(i) for i in of.flatten().tolist()]


def test_a_split_into_factors_ties_what_has_to_stay_equal():
    """Two rows of three: either columns go together, or, once a row is one, the row goes alone."""
    shuffled, heads = ChannelIds(), ChannelIds()
    rows = shuffled.fresh(6).view(2, 3)
    split(shuffled, rows)
    shuffled.settle()
    assert roots(shuffled, rows) == [1, 2, 3, 1, 2, 3]
    rows = heads.fresh(6).view(2, 3)
    split(heads, rows)
    for head in rows:
        heads.tie(head, "product")
    heads.settle()
    assert roots(heads, rows) == [1, 1, 1, 4, 4, 4]


def test_an_attribute_counts_the_dimension_that_shrinks():
    """Of (heads, size of a head) the first shrinks when heads go as wholes, the second never."""
    ids = ChannelIds()
    rows = ids.fresh(6).view(2, 3)
    split(ids, rows)
    ids.later(Sized("heads", rows, 0))
    ids.later(Sized("head_dim", rows, 1))
    for head in rows:
        ids.tie(head, "product")
    (use,) = ids.settle().uses
    assert (use.tensor, use.dim, use.purpose, use.ids.tolist()) == ("heads", 0, "size", [1, 4])


@pytest.mark.parametrize("channels_too", [True, False])
def test_what_one_attribute_sizes_goes_together(channels_too):
    """A constant in the attribute's size follows the channels that the attribute counts."""
    ids = ChannelIds()
    channels, constant = ids.fresh(3, weak=not channels_too), ids.fresh(3, weak=True)
    ids.later(Sized("hidden", constant, 0))
    ids.later(Sized("hidden", channels, 0))
    uses = ids.settle().uses
    assert len(uses) == channels_too
    assert (roots(ids, channels) == roots(ids, constant)) == channels_too


def test_sizes_taken_from_another_activation_tie_its_channels():
    ids = ChannelIds()
    left, right, same = ids.fresh(4), ids.fresh(4), ids.fresh(4)
    ids.later(Equal(left, 0, right, 0))
    ids.later(Equal(same, 0, same.flip(0), 0))
    ids.settle()
    assert roots(ids, left) == roots(ids, right) == [1, 2, 3, 4]
    assert len({*roots(ids, same)}) == 4  # moved about, they are equally many in any case


HEADS = "heads that are one channel each"
ALIKE = "channels that share a last index"
FREE = "independent channels"


def matrix(ids: ChannelIds, kind: str) -> Tensor:
    """(heads, size of a head) channels."""
    channels = ids.fresh(6).view(2, 3)
    if kind == HEADS:
        ids.unite(channels, channels[:, :1])
    elif kind == ALIKE:
        ids.unite(channels, channels[:1])
    return channels


@pytest.mark.parametrize(
    ("kind", "follows", "tied"), [(HEADS, False, False), (ALIKE, True, False), (FREE, True, True)]
)
def test_a_table_that_is_broadcast_over_heads_serves_them_or_follows(kind, follows, tied):
    """A rotary table is the same for all heads; it shrinks where what is in a head shrinks."""
    ids = ChannelIds()
    channels = matrix(ids, kind)
    before = roots(ids, channels)
    table = Stored("table", 0, ids.fresh(3, weak=True))
    ids.later(table)
    ids.later(Broadcast(table.labels.view(1, 3), channels))
    uses = ids.settle().uses
    assert [use.tensor for use in uses] == ["table"] * follows
    assert (roots(ids, channels) != before) == tied
    if follows:
        assert uses[0].ids.tolist() == roots(ids, channels[0])


def test_a_table_used_element_by_element_freezes_its_channels():
    ids = ChannelIds()
    channels, labels = ids.fresh(6).view(2, 3), ids.fresh(2, weak=True)
    ids.later(Broadcast(labels.view(2, 1), channels, "table is used element by element"))
    assert set(ids.settle().frozen.values()) == {"table is used element by element"}
    assert not ids.channels(labels)


@pytest.mark.parametrize("kind", [HEADS, ALIKE])
def test_a_statistic_is_one_of_the_kept_channels_unless_it_stays_within_a_head(kind):
    ids = ChannelIds()
    channels = matrix(ids, kind)
    result = reduced(ids, channels, [1], "mean (1)", "mean")
    assert result.shape == (2, 1)
    uses = ids.settle().uses
    if kind == HEADS:
        assert not uses
        assert roots(ids, result) == [1, 4]
    else:
        (use,) = uses
        assert (use.tensor, use.dim, use.purpose) == ("mean (1)", 1, "statistic")
        assert use.ids.tolist() == [1, 2, 3]


def test_channels_stay_where_their_statistic_has_to():
    ids = ChannelIds()
    channels = ids.fresh(3)
    ids.freeze(reduced(ids, channels, [0], "sum (1)", "sum"), "network output")
    frozen = ids.settle().frozen
    assert frozen == dict.fromkeys(frozen, "network output")
    assert {1, 2, 3} <= frozen.keys()


def test_of_merged_dimensions_that_follows_whose_indices_are_one_channel_each():
    """(inputs, area) merged: the label of the inputs follows, that of the area does not."""
    ids = ChannelIds()
    channels = ids.fresh(3)
    inputs, area = ids.fresh(3, weak=True), ids.fresh(2, weak=True)
    merged = [inputs.repeat_interleave(2), area.repeat(3)]
    ids.later(Along(merged, channels.repeat_interleave(2), "why"))
    assert not ids.settle().frozen
    assert roots(ids, inputs) == [1, 2, 3]
    assert not ids.channels(area)


def test_channels_stay_where_none_of_merged_dimensions_follows():
    ids = ChannelIds()
    channels = ids.fresh(6)
    merged = [ids.fresh(3, weak=True).repeat_interleave(2), ids.fresh(2, weak=True).repeat(3)]
    ids.later(Along(merged, channels, "why"))
    assert ids.settle().frozen == dict.fromkeys(range(1, 7), "why")


def test_what_is_summed_over_shrinks_in_both_factors():
    ids = ChannelIds()
    channels = ids.fresh(3)
    left, right = (Stored(name, 1, ids.fresh(3, weak=True)) for name in ("left", "right"))
    for relation in (left, right, Contracted([left.labels], [right.labels], "mv (1)", 1)):
        ids.later(relation)
    assert not any(ids.channels(x.labels) for x in (left, right))
    ids.unite(left.labels, channels)
    uses = {use.tensor: (use.dim, use.purpose, use.ids.tolist()) for use in ids.settle().uses}
    assert uses == {
        "left": (1, "affine", [1, 2, 3]),
        "right": (1, "affine", [1, 2, 3]),
        "mv (1)": (1, "statistic", [1, 2, 3]),
    }
