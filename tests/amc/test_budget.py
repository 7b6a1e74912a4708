"""Budgets as texts and numbers, and the projection against brute force."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from torch import nn

from amc.budget import Budget, parse_budget, project, resolve
from amc.cost import CostTable
from amc.errors import BudgetError, ConfigError
from amc.find import read_units
from amc.units import Units


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("flops=0.5", {"macs": 0.5}),
        ("macs=.25", {"macs": 0.25}),
        ("FLOPs=0.5", {"macs": 0.5}),
        ("macs=1", {"macs": 1.0}),
        ("macs=1.0", {"macs": 1.0}),
        ("macs=2", {"macs": 2}),
        ("params=1200000", {"params": 1_200_000}),
        ("params=1.2M", {"params": 1_200_000}),
        ("flops=20m params=300k", {"macs": 20_000_000, "params": 300_000}),
        ("flops=0.5,params=.3", {"macs": 0.5, "params": 0.3}),
        ("macs=0.5G", {"macs": 500_000_000}),
        (["flops=0.5", "params=2M"], {"macs": 0.5, "params": 2_000_000}),
    ],
)
def test_budgets_that_are_understood(text, limits):
    found = parse_budget(text)
    assert found == limits
    assert [type(value) for value in found.values()] == [type(value) for value in limits.values()]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ConfigError, "an empty budget"),
        ([], ConfigError, "an empty budget"),
        ("0.5", ConfigError, "unknown budget '0.5'; write KEY=VALUE with KEY one of macs, flops"),
        ("time=0.5", ConfigError, "unknown budget 'time=0.5'"),
        ("flops", ConfigError, "'' is neither a fraction nor a count"),
        ("flops=half", ConfigError, "'half' is neither a fraction nor a count"),
        ("flops=50%", ConfigError, "'50%' is neither"),
        ("flops=-0.5", ConfigError, "'-0.5' is neither"),
        ("flops=nan", ConfigError, "'nan' is neither"),
        ("flops=1e6", ConfigError, "'1e6' is neither"),
        ("flops = 0.5", ConfigError, "'' is neither"),
        ("flops=0.5 macs=0.4", ConfigError, "'macs=0.4': macs is bounded twice"),
        ("flops=0", BudgetError, "a fraction must be in"),
        ("flops=0.0", BudgetError, "a fraction must be in"),
        ("flops=1.5", BudgetError, "a fraction must be in"),
        ("flops=0M", BudgetError, "a fraction must be in"),
    ],
)
def test_budgets_that_are_refused(text, error, message):
    with pytest.raises(error, match=re.escape(message)):
        parse_budget(text)


WIDTHS = (6, 5, 7)


def three_units() -> tuple[Units, CostTable]:
    """Convolutions 3-6-5-7-2 on a 12-pixel input, steps of very different price."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 1, stride=2), nn.Conv2d(5, 7, 3), nn.Conv2d(7, 2, 3)
    )
    units = read_units(model, torch.ones(1, 3, 12, 12))
    return units, CostTable(units)


def by_hand(a: int, b: int, c: int) -> dict[str, int]:
    return {
        "macs": 100 * 27 * a + 25 * a * b + 9 * 9 * b * c + 9 * c * 2,
        "params": (27 * a + a) + (a * b + b) + (9 * b * c + c) + (9 * c * 2 + 2),
    }


def test_resolving_fractions_and_counts():
    units, cost = three_units()
    dense = by_hand(*WIDTHS)
    budget = resolve({"macs": 0.5, "params": 300}, units, cost)
    assert budget.limits == {"macs": dense["macs"] / 2, "params": 300}
    assert budget.fraction("macs") == 0.5
    assert budget.fraction("params") == 300 / dense["params"]
    assert resolve({"macs": 0.5}, units, cost).fraction("params") == 1.0
    assert resolve({"macs": 10**9}, units, cost).fraction("macs") == 1.0
    for widths in itertools.product(*(range(1, n + 1) for n in WIDTHS)):
        costs = by_hand(*widths)
        assert budget.met(widths) == (costs["macs"] <= dense["macs"] / 2 and costs["params"] <= 300)


@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_an_unreachable_budget_names_the_least_achievable_which_is_achievable(quantity):
    units, cost = three_units()
    units = units.limited(min_keep=0.3)
    least = tuple(unit.widths[0] for unit in units)
    assert least == (2, 2, 3)
    with pytest.raises(BudgetError, match="cannot be met: the least achievable is") as caught:
        resolve({quantity: 0.01}, units, cost)
    found = re.search(r"achievable is ([\d,]+) \(([\d.]+)%\)", str(caught.value))
    assert found is not None
    count = int(found[1].replace(",", ""))
    assert count == by_hand(*least)[quantity]
    exactly = resolve({quantity: count}, units, cost)
    assert project(np.full(3, 0.5), units, exactly) == least
    with pytest.raises(BudgetError, match="cannot be met"):
        resolve({quantity: count - 1}, units, cost)
    assert resolve({quantity: float(found[2]) / 100}, units, cost).met(least)


@pytest.mark.parametrize("limit", [1.5, 2e7, 0.0, -0.5, float("nan")])
def test_fractions_outside_of_their_range_are_refused(limit):
    units, cost = three_units()
    with pytest.raises(BudgetError, match=r"must be in \(0, 1\]; write a count as an integer"):
        resolve({"macs": limit}, units, cost)


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


@pytest.mark.parametrize("bounds", [{}, {"min_keep": 0.3}, {"round_to": 2}], ids=repr)
@pytest.mark.parametrize("quantities", [("macs",), ("params",), ("macs", "params")], ids=repr)
def test_the_projection_against_all_width_combinations(bounds, quantities):
    units, cost = three_units()
    units = units.limited(**bounds)
    grids = [unit.widths for unit in units]
    combinations = list(itertools.product(*grids))
    dense, least = by_hand(*WIDTHS), by_hand(*(grid[0] for grid in grids))
    generator = np.random.default_rng(0)
    for _ in range(15):
        wishes = generator.uniform(0.05, 1.0, 3)
        spent = 0
        for part in np.linspace(0.02, 1.0, 12):
            limits = {q: least[q] + round(part * (dense[q] - least[q])) for q in quantities}
            budget = resolve(limits, units, cost)
            kept = project(wishes, units, budget)
            fitting = [
                widths
                for widths in combinations
                if all(by_hand(*widths)[q] <= limit for q, limit in limits.items())
            ]
            assert kept in fitting
            # No other fitting plan keeps at least as much of every unit.
            assert not [w for w in fitting if w != kept and np.greater_equal(w, kept).all()]
            assert (np.array(kept) >= scaled(units, wishes, budget)).all()
            if len(quantities) == 1:  # a larger budget is never spent less
                assert by_hand(*kept)[quantities[0]] >= spent
                spent = by_hand(*kept)[quantities[0]]


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


def test_random_wishes_land_on_the_budget_from_below(subject):
    s = subject("resnet20")
    units = s.units.limited(min_keep=0.1)
    budget = resolve({"macs": 0.5}, units, s.cost)
    generator = np.random.default_rng(0)
    spent = []
    for _ in range(200):
        wishes = generator.uniform(0.1, 1.0, len(units))
        kept = project(wishes, units, budget)
        assert all(k in unit.widths for k, unit in zip(kept, units, strict=True))
        spent.append(s.cost.macs(kept) / budget.limits["macs"])
    assert max(spent) <= 1
    # Where only the widest stream can still grow, one step of it is worth over 2%.
    assert min(spent) > 0.98
    assert np.mean(np.array(spent) > 0.99) > 0.95


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


def test_a_budget_shows_its_bounds():
    units, cost = three_units()
    assert str(resolve({"macs": 0.5, "params": 300}, units, cost)) == (
        f"macs ≤ {by_hand(*WIDTHS)['macs'] / 2:,.0f} (50.0%), "
        f"params ≤ 300 ({300 / by_hand(*WIDTHS)['params']:.1%})"
    )
