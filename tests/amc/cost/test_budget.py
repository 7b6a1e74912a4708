"""Budgets as texts and numbers, and the projection against brute force."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
from torch import nn

from amc.cost.budget import Budget, parse_budget, resolve
from amc.cost.projection import project
from amc.cost.table import CostTable
from amc.errors import BudgetError, ConfigError
from amc.pruning.find_units import read_units
from amc.tracing.units import Units


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
        ("flops=0.3:0.8", {"macs": (0.3, 0.8)}),
        ("flops=10M:30M", {"macs": (10_000_000, 30_000_000)}),
        ("flops=.3:1 params=0.5", {"macs": (0.3, 1.0), "params": 0.5}),
        (["params=0.2:0.6", "flops=2G"], {"params": (0.2, 0.6), "macs": 2 * 10**9}),
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
        ("flops=0.8:0.3", BudgetError, "macs=0.8:0.3: a range runs from the lower end to the"),
        ("flops=0.5:0.5", BudgetError, "a range runs from the lower end"),
        ("flops=0.3:20M", BudgetError, "macs=0.3:20000000: give two fractions, or two counts"),
        ("flops=0.3:", ConfigError, "'' is neither"),
        ("flops=0.3:0.5:0.8", ConfigError, "'flops=0.3:0.5:0.8': a range has two ends, LOW:HIGH"),
        ("flops=0.3:1.5", BudgetError, "a fraction must be in"),
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


def test_a_range_draws_evenly_between_its_ends():
    units, cost = three_units()
    dense = by_hand(*WIDTHS)
    budgets = resolve({"macs": (0.3, 0.8), "params": (200, 300)}, units, cost)
    generator = np.random.default_rng(0)
    drawn = [budgets.draw(generator).limits for _ in range(2000)]
    macs = np.array([limits["macs"] for limits in drawn]) / dense["macs"]
    params = np.array([limits["params"] for limits in drawn])
    for values, low, high in ((macs, 0.3, 0.8), (params, 200, 300)):
        quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
        assert quantiles == pytest.approx(np.linspace(low, high, 5), abs=0.03 * (high - low))
        assert low <= values.min()
        assert values.max() <= high
    assert abs(np.corrcoef(macs, params)[0, 1]) < 0.06
    again = np.random.default_rng(0)
    assert [budgets.draw(again).limits for _ in range(5)] == drawn[:5]
    spread = [budget.limits for budget in budgets.spread()]
    assert [limits["params"] for limits in spread] == list(range(200, 301, 10))
    assert spread[5]["macs"] / dense["macs"] == pytest.approx(0.55)
    assert [budget.limits for budget in budgets.spread(1)] == [spread[5]]
    assert budgets.fractions["macs"] == pytest.approx((0.3, 0.8))


def test_one_budget_is_a_range_of_one_and_draws_nothing():
    units, cost = three_units()
    budget = resolve({"macs": 0.5}, units, cost)
    generator = np.random.default_rng(0)
    state = generator.bit_generator.state
    assert budget.draw(generator) is budget
    assert generator.bit_generator.state == state
    assert budget.spread() == budget.spread(5) == [budget]
    assert budget.fractions == {"macs": 0.5}


def test_the_low_end_of_a_range_must_be_within_reach():
    units, cost = three_units()
    units = units.limited(min_keep=0.3)
    least = by_hand(2, 2, 3)["macs"]
    with pytest.raises(BudgetError, match=f"the least achievable is {least:,} "):
        resolve({"macs": (0.01, 0.5)}, units, cost)
    low = resolve({"macs": (least, 10 * least)}, units, cost).spread(2)[0]
    assert project(np.full(3, 0.5), units, low) == (2, 2, 3)
    with pytest.raises(BudgetError, match="runs from the lower end"):
        resolve({"macs": (0.8, 0.3)}, units, cost)


def test_slack_is_what_the_scarcest_bound_has_left():
    units, cost = three_units()
    budget = resolve({"macs": 0.5, "params": 300}, units, cost)
    widths = np.array(list(itertools.product(*(range(1, n + 1) for n in WIDTHS))))
    costs = [by_hand(*row) for row in widths.tolist()]
    half = by_hand(*WIDTHS)["macs"] / 2
    expected = [min(1 - c["macs"] / half, 1 - c["params"] / 300) for c in costs]
    np.testing.assert_allclose(budget.slack(widths), expected, atol=1e-12)
    assert np.isinf(Budget({}, cost).slack(widths)).all()


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


def test_a_budget_shows_its_bounds():
    units, cost = three_units()
    assert str(resolve({"macs": 0.5, "params": 300}, units, cost)) == (
        f"MACs ≤ {by_hand(*WIDTHS)['macs'] / 2:,.0f} (50.0%), "
        f"parameters ≤ 300 ({300 / by_hand(*WIDTHS)['params']:.1%})"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("latency=0.6", {"latency_us": 0.6}),
        ("latency=12ms", {"latency_us": 12000}),
        ("latency=0.5ms", {"latency_us": 500}),
        ("latency=800us flops=0.5", {"latency_us": 800, "macs": 0.5}),
        ("latency=0.4:0.9", {"latency_us": (0.4, 0.9)}),
        ("latency=1s:2s", {"latency_us": (10**6, 2 * 10**6)}),
    ],
)
def test_times(text, expected):
    assert parse_budget(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("latency=12", "12 of what"),
        ("latency=12M", "neither a fraction nor a time"),
        ("flops=12ms", "neither a fraction nor a count"),
        ("latency=0ms", "must be in"),
    ],
)
def test_times_that_are_none(text, message):
    with pytest.raises((ConfigError, BudgetError), match=message):
        parse_budget(text)
