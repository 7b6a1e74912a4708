"""Which kept widths are allowed, and what is said of units that are left no choice."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Conv2d, Linear

from amc.errors import ConfigError, UnitError
from amc.pruning.find_units import find_units, read_units
from amc.tracing.units import Units


def chain(*widths: int) -> Units:
    convs = [Conv2d(a, b, 1, bias=False) for a, b in pairwise(widths)]
    return read_units(nn.Sequential(*convs), torch.ones(1, widths[0], 2, 2))


@pytest.mark.parametrize(
    ("bounds", "widths"),
    [
        ({}, tuple(range(1, 11))),
        ({"min_keep": 0.3}, (3, 4, 5, 6, 7, 8, 9, 10)),
        ({"min_keep": 0.31}, (4, 5, 6, 7, 8, 9, 10)),
        ({"min_width": 7}, (7, 8, 9, 10)),
        ({"min_width": 2, "min_keep": 0.8}, (8, 9, 10)),
        ({"round_to": 4}, (4, 8, 10)),
        ({"round_to": 5}, (5, 10)),
        ({"round_to": 4, "min_keep": 0.5}, (8, 10)),
        ({"round_to": {"conv": 4}}, (4, 8, 10)),
        ({"round_to": {"all": 4}}, (4, 8, 10)),
        ({"round_to": {"all": 4, "conv": 3}}, (3, 6, 9, 10)),
        ({"round_to": {"linear": 4}}, tuple(range(1, 11))),
    ],
    ids=repr,
)
def test_allowed_widths(bounds, widths):
    (unit,) = chain(3, 10, 2).limited(**bounds)
    assert unit.widths == widths


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [
        ({"min_keep": 1.0}, "at least 10 (min_keep=1)"),
        ({"min_keep": 0.95, "min_width": 3, "round_to": 8}, "at least 10 (min_keep=0.95)"),
        ({"min_keep": 0.5, "min_width": 12}, "at least 12 (min_width=12)"),
        ({"round_to": 16}, "multiples of 16 (round_to=16)"),
        ({"min_keep": 0.5, "round_to": {"conv": 16}}, "multiples of 16 (round_to conv=16)"),
        ({"min_width": 9, "round_to": 4}, "at least 9 (min_width=9), multiples of 4 (round_to=4)"),
    ],
    ids=repr,
)
def test_what_leaves_no_choice_is_named(bounds, reason):
    units = chain(3, 10, 2).limited(**bounds)
    assert not units
    assert units.frozen[-1].name == "0"
    assert units.frozen[-1].reason == f"no width below 10 is allowed: {reason}"


def test_a_unit_of_one_group_does_not_blame_the_bounds():
    units = chain(3, 1, 2).limited(min_keep=0.9, round_to=8)
    assert {f.name: f.reason for f in units.frozen} == {
        "0": "its channels all go together",
        "1": "network output",
    }


@pytest.mark.parametrize(("min_keep", "width", "least"), [(0.07, 100, 7), (0.55, 100, 55)])
def test_a_least_fraction_is_deaf_to_rounding(min_keep, width, least):
    assert min_keep * width > least  # in floating point
    (unit,) = chain(3, width, 2).limited(min_keep=min_keep)
    assert unit.widths[0] == least


class Mixed(nn.Module):
    """A unit of every shape: plain and grouped convolutions, a stream, heads, an MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = Conv2d(3, 24, 2, 2)
        self.grouped = Conv2d(24, 36, 1, groups=3)
        self.mix = Conv2d(36, 24, 1)
        self.layer = nn.TransformerEncoderLayer(24, 4, 20, batch_first=True)
        self.head = Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.grouped(self.patch(x)))
        tokens: Tensor = self.layer(x.flatten(2).transpose(1, 2))
        return self.head(tokens.mean(1))


@pytest.fixture(scope="module")
def mixed() -> Units:
    torch.manual_seed(0)
    return find_units(Mixed(), torch.randn(1, 3, 8, 8))


KINDS = {
    "patch": ("conv", 8, 3),  # kind, width, granularity
    "grouped": ("conv", 12, 3),
    "mix": ("stream", 24, 1),
    "layer.self_attn": ("heads", 4, 18),
    "layer.linear1": ("linear", 20, 1),
}


@pytest.mark.parametrize("round_to", [1, 6, 8, 12, {"conv": 12, "linear": 8}, {"heads": 12}])
def test_kept_channels_are_multiples_of_the_number_for_the_kind(mixed, round_to):
    """As channels, not as groups: 12 groups of 3 may keep multiples of 8 groups for round_to=8."""
    units = mixed.limited(round_to=round_to)
    multiples = round_to if isinstance(round_to, dict) else {"all": round_to}
    allowed = {}
    for name, (kind, width, granularity) in KINDS.items():
        number = multiples.get(kind, multiples.get("all", 1))
        whole = [k for k in range(1, width) if k * granularity % number == 0]
        if whole:
            allowed[name] = (*whole, width)
    assert {unit.name: unit.widths for unit in units} == allowed
    blamed = {f.name: f.reason for f in units.frozen if f.reason != "network output"}
    assert blamed.keys() == KINDS.keys() - allowed.keys()
    assert all("round_to" in reason for reason in blamed.values())


def test_a_multiple_that_the_groups_never_reach_is_told_in_groups(mixed):
    units = mixed.limited(round_to={"heads": 8})  # 4 heads of 18 channels: only 72 is one
    assert units.frozen[-1].name == "layer.self_attn"
    assert units.frozen[-1].reason == (
        "no width below 4 is allowed: multiples of 4 groups of 18 channels (round_to heads=8)"
    )


def test_the_ends_are_what_the_first_layer_writes_and_an_output_layer_reads(mixed):
    assert mixed.stem is mixed[0]
    assert [unit.name for unit in mixed.last] == ["mix"]
    least = {unit.name: unit.widths[0] for unit in mixed.limited(gentle_ends=True)}
    assert least == {
        "patch": 4,
        "grouped": 1,
        "mix": 12,
        "layer.self_attn": 1,
        "layer.linear1": 1,
    }
    stricter = mixed.limited(min_keep=0.75, gentle_ends=True)
    assert [unit.widths[0] for unit in stricter] == [6, 9, 18, 3, 15]
    assert [unit.widths[0] for unit in mixed.limited()] == [1] * 5  # not unless asked for


def test_both_ends_may_be_left_alone():
    units = chain(3, 2)
    assert units.stem is None
    assert units.last == ()
    (gentle,) = chain(3, 2, 4, 1).limited(gentle_ends=True, min_width=2, exclude=["0"])
    assert (gentle.name, gentle.widths) == ("1", (2, 3, 4))
    ends = chain(3, 1, 5, 2).limited(gentle_ends=True, round_to=4)
    assert [(unit.name, unit.widths) for unit in ends] == [("1", (4, 5))]


def test_excluding_by_name_pattern_member_and_kind(mixed):
    def left(*exclude: str) -> list[str]:
        return [unit.name for unit in mixed.limited(exclude=exclude)]

    everything = list(KINDS)
    assert left("patch") == everything[1:]
    for member in ("mix", "layer.self_attn.out_proj", "layer.linear2", "*.linear2", "kind:stream"):
        assert left(member) == ["patch", "grouped", "layer.self_attn", "layer.linear1"]
    assert left("layer.*") == ["patch", "grouped"]  # the stream too: layers in it are called so
    assert left("kind:conv", "kind:h*") == ["mix", "layer.linear1"]
    assert left("head") == everything  # frozen already
    frozen = mixed.limited(exclude=["*.linear2"], min_keep=1.0).frozen
    assert ("mix", "excluded by '*.linear2'") in {(f.name, f.reason) for f in frozen}
    for wrong in ("fc", "kind:embedding", "layer"):
        with pytest.raises(UnitError, match=f"no unit matches '{wrong}'; units are named like pa"):
            left("patch", wrong)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"min_keep": 1.5}, "bounds: min_keep: Input should be less than or equal to 1 (got 1.5)"),
        ({"min_width": 0}, "bounds: min_width: "),
        ({"round_to": 0}, "bounds: round_to.all: Input should be greater than 0 (got 0)"),
        ({"round_to": {"conv": 2.5}}, "bounds: round_to.conv: "),
        (
            {"round_to": {"depthwise": 8}},
            "bounds: round_to: no unit is of kind 'depthwise'; write all, conv, linear, embedding, "
            "stream, heads (got",
        ),
    ],
    ids=repr,
)
def test_bounds_out_of_their_range_are_refused(bounds, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        chain(3, 10, 2).limited(**bounds)
