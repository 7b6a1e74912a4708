"""The projection against brute force, and on the units of real networks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from amc.cost.budget import Budget, resolve
from amc.cost.projection import SLACK, WASTE, Projector, project
from amc.cost.table import CostTable
from amc.pruning.find_units import read_units
from amc.tracing.units import Units
from tests.amc.cost.test_budget import WIDTHS, by_hand, three_units


def scaled(units: Units, wishes: np.ndarray, budget: Budget) -> np.ndarray:
    """Oracle: walk up all scales at which some unit changes its width, as long as that fits.

    A unit of wish w and width W leaves an allowed width for the next where scale * w * W crosses
    the middle between them.
    """
    grids = [unit.widths for unit in units]
    crossings = [
        ((high + low) / 2 / (wish * unit.width), number)
        for number, (unit, wish, grid) in enumerate(zip(units, wishes, grids, strict=True))
        for low, high in itertools.pairwise(grid)
    ]
    ranks = [0] * len(units)
    for _, number in sorted(crossings):
        ranks[number] += 1
        if not budget.met([grid[rank] for grid, rank in zip(grids, ranks, strict=True)]):
            ranks[number] -= 1
            break
    return np.array([grid[rank] for grid, rank in zip(grids, ranks, strict=True)])


def slack_by_hand(widths: np.ndarray | tuple[int, ...], limits: dict[str, int]) -> float:
    """Unspent part of the scarcest bound."""
    return min(1 - by_hand(*widths)[q] / limit for q, limit in limits.items())


@pytest.mark.parametrize("bounds", [{}, {"min_keep": 0.3}, {"round_to": 2}], ids=repr)
@pytest.mark.parametrize("quantities", [("macs",), ("params",), ("macs", "params")], ids=repr)
def test_the_projection_against_all_width_combinations(bounds, quantities):
    units, cost = three_units()
    units = units.limited(**bounds)
    grids = [unit.widths for unit in units]
    combinations = list(itertools.product(*grids))
    dense, least = by_hand(*WIDTHS), by_hand(*(grid[0] for grid in grids))
    wishes = np.random.default_rng(0).uniform(0.05, 1.0, (15, 3))
    traded = 0
    for part in np.linspace(0.02, 1.0, 12):
        limits = {q: least[q] + round(part * (dense[q] - least[q])) for q in quantities}
        budget = resolve(limits, units, cost)
        projector = Projector(units)
        plans = projector(wishes, budget)
        assert np.array_equal(projector(plans / WIDTHS, budget), plans)
        fitting = np.array(
            [
                widths
                for widths in combinations
                if all(by_hand(*widths)[q] <= limit for q, limit in limits.items())
            ]
        )
        for row, kept in zip(wishes, plans, strict=True):
            assert (fitting == kept).all(1).any()
            # No other fitting plan keeps at least as much of every unit.
            assert (fitting >= kept).all(1).sum() == 1
            # Either it is what the largest scale gives, but for units that grew; or that would
            # leave too much, and a trade leaves less.
            proportional = scaled(units, row, budget)
            if (kept < proportional).any():
                traded += 1
                assert slack_by_hand(proportional, limits) > SLACK
                assert slack_by_hand(kept, limits) <= WASTE / 2
    assert 0 < traded < 90  # of 180


@pytest.mark.parametrize(
    ("round_to", "grids"),
    [
        (6, [(2, 4), (2, 4, 6), (6, 8), (6, 10)]),
        ({"conv": 6, "linear": 4}, [(2, 4), (2, 4, 6), (6, 8), (4, 8, 10)]),
        ({"all": 2, "linear": 1}, [(2, 4), (2, 4, 6), (2, 4, 6, 8), tuple(range(1, 11))]),
    ],
    ids=repr,
)
def test_plans_observe_multiples_of_channels_by_kind(round_to, grids):
    """Against all combinations of the widths worked out by hand: groups of 3, 3, 1, 1 channels."""
    model = nn.Sequential(
        nn.Conv2d(3, 12, 1),
        nn.Conv2d(12, 18, 3, groups=3),
        nn.Conv2d(18, 8, 1),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        *(nn.Linear(8, 10), nn.Linear(10, 2)),
    )
    units = read_units(model, torch.ones(1, 3, 6, 6)).limited(round_to=round_to)
    cost = CostTable(units)
    combinations = np.array(list(itertools.product(*grids)))
    macs = np.array([cost.macs(widths) for widths in combinations])
    generator = np.random.default_rng(0)
    for limit in np.linspace(macs.min(), macs.max(), 12).astype(int).tolist():
        fitting = combinations[macs <= limit]
        budget = resolve({"macs": limit}, units, cost)
        for wishes in generator.uniform(0.05, 1.0, (10, 4)):
            kept = np.array(project(wishes, units, budget))
            assert (fitting == kept).all(1).any()
            assert ((fitting >= kept).all(1) == (fitting == kept).all(1)).all()


def test_a_loose_budget_keeps_everything_and_none_is_no_bound():
    units, cost = three_units()
    wishes = np.array([0.1, 0.9, 0.2])
    assert project(wishes, units, resolve({"macs": 1.0}, units, cost)) == WIDTHS
    assert project(wishes, units, Budget({}, cost)) == WIDTHS


@pytest.mark.parametrize("part", [0.2, 0.35, 0.5, 0.65, 0.8])
@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "googlenet"])
def test_equal_wishes_give_nearly_equal_keep_whatever_their_size(subject, name, part):
    s = subject(name)
    budget = resolve({"macs": part}, s.units, s.cost)
    kept = np.array(project(np.full(len(s.units), 0.3), s.units, budget))
    dense = np.array(s.units.dense_widths)
    middle = np.median(kept / dense)
    assert (np.abs(kept - middle * dense) <= 1.5 + 0.01 * dense).all()
    assert kept.tolist() == list(project(np.full(len(s.units), 0.9), s.units, budget))


@pytest.mark.parametrize("limits", [{"macs": 0.5}, {"macs": 0.85}, {"macs": 0.4, "params": 0.4}])
@pytest.mark.parametrize(
    ("name", "multiple", "most"),
    [
        ("resnet20", 1, SLACK),
        ("mobilenet_v2", 1, SLACK),
        ("mobilenet_v2", 8, SLACK),
        ("vgg11_bn", 1, SLACK),
        ("vgg11_bn", 16, SLACK),
        # Widths of 16, of which 4, 8, 12 and 16 may be kept.
        ("resnet20", 4, 2 * SLACK),
    ],
)
def test_what_random_wishes_leave(subject, name, multiple, most, limits):
    """Wishes of every size, where a coarse unit that is hardly wished used to leave 5%."""
    s = subject(name)
    units = s.units.limited(min_keep=0.1, round_to=multiple)
    cost = CostTable(units)
    budget = resolve(limits, units, cost)
    wishes = np.exp(np.random.default_rng(0).uniform(np.log(0.03), 0.0, (64, len(units))))
    kept = Projector(units)(wishes, budget)
    for row in kept:
        assert all(width in unit.widths for width, unit in zip(row, units, strict=True))
    unspent = [
        min(1 - cost.function(q)(row) / most for q, most in budget.limits.items()) for row in kept
    ]
    assert min(unspent) >= 0
    assert max(unspent) <= most
    assert np.mean(np.array(unspent) <= SLACK) > 0.6
    again = Projector(units)(kept / np.array(units.dense_widths), budget)
    assert np.array_equal(again, kept)


def test_a_unit_whose_single_step_is_a_fifth_of_the_budget(subject):
    """Of a stream of 16 channels either 8 are kept or all."""
    s = subject("resnet20")
    units = s.units.limited(min_keep=0.1, round_to=8)
    budget = resolve({"macs": 0.85}, units, CostTable(units))
    wishes = np.exp(np.random.default_rng(0).uniform(np.log(0.03), 0.0, (64, len(units))))
    unspent = budget.slack(Projector(units)(wishes, budget))
    assert unspent.max() < WASTE
    assert np.mean(unspent <= SLACK) > 0.8


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_many_wishes_at_once_are_the_same_as_one_by_one(subject, name):
    s = subject(name)
    budget = resolve({"macs": 0.6, "params": 0.5}, s.units, s.cost)
    wishes = np.random.default_rng(1).uniform(0.05, 1.0, (20, len(s.units)))
    many = Projector(s.units)(wishes, budget)
    assert [tuple(row) for row in many] == [project(row, s.units, budget) for row in wishes]
    loose = resolve({"macs": 1.0}, s.units, s.cost)
    assert (Projector(s.units)(wishes, loose) == s.units.dense_widths).all()


@pytest.mark.parametrize("name", ["resnet20", "vgg11_bn"])
def test_a_trade_takes_little_from_each(subject, name):
    """A step, or a tenth, of what the largest scale alone would give."""
    s = subject(name)
    budget = resolve({"macs": 0.85}, s.units, s.cost)
    generator = np.random.default_rng(2)
    wishes = np.exp(generator.uniform(np.log(0.03), 0.0, (10, len(s.units))))
    for row, kept in zip(wishes, Projector(s.units)(wishes, budget), strict=True):
        proportional = scaled(s.units, row, budget)
        assert (kept >= np.minimum(proportional - 1, 0.9 * proportional - 0.5)).all()


def test_larger_wishes_keep_more(subject):
    s = subject("vgg11_bn")
    budget = resolve({"macs": 0.4}, s.units, s.cost)
    even = np.array(project(np.full(len(s.units), 0.4), s.units, budget))
    for number in range(len(s.units)):
        wishes = np.full(len(s.units), 0.4)
        wishes[number] = 0.8
        kept = np.array(project(wishes, s.units, budget))
        assert kept[number] > even[number]
        assert (np.delete(kept, number) <= np.delete(even, number) + 2).all()


def staircase(widths: np.ndarray) -> np.ndarray:
    """Microseconds in which an odd width takes longer than the even one above it."""
    time: np.ndarray = (widths + 2.5 * (widths % 2)).sum(axis=-1)
    return time


def test_no_unit_could_grow_over_widths_that_take_longer():
    units, counted = three_units()
    cost = CostTable(units, latency=staircase)
    wishes = np.random.default_rng(0).uniform(0.05, 1.0, (60, 3))
    blocked = 0
    for limit_us in (11, 13, 15, 17):
        budget = resolve({"latency_us": limit_us}, units, cost)
        for kept in Projector(units)(wishes, budget):
            assert staircase(kept) <= limit_us
            wider = [
                (*kept[:u], width, *kept[u + 1 :])
                for u in range(3)
                for width in range(kept[u] + 1, WIDTHS[u] + 1)
            ]
            assert not any(staircase(np.array(plan)) <= limit_us for plan in wider)
            # A single step up is what fails first: from an even width to an odd one.
            blocked += any(staircase(kept + step) > limit_us for step in np.eye(3, dtype=int))
    assert blocked
    assert Budget({"macs": 2000}, counted).monotone
