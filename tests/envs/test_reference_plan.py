"""The reference plan: by brute force, and each of its decisions by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from amc.cost.budget import BudgetRange, resolve
from amc.cost.projection import project
from amc.envs.reference_plan import ROUNDS, STEPS, ReferencePlan, Tuned, numbered, tune
from amc.envs.sensitivity import Sensitivity
from amc.errors import EvaluationError
from tests.fakes import DENSE_9, FakeCost, fake_problem, fake_units


class Linear(FakeCost):
    """Every unit costs something by itself: ``prices`` for each of its groups."""

    quantities = ("macs",)
    prices = (3, 1)

    def totals(self, quantity: str, widths: Any) -> Any:
        return np.asarray(widths) @ np.array(self.prices) * (quantity == "macs")

    def macs(self, widths: Any) -> int:
        return int(self.totals("macs", widths))


UNITS: Any = fake_units((20, 20), least=0.05)
COST: Any = Linear((20, 20))


def budget_of(fraction: float | tuple[float, float]) -> Any:
    return resolve({"macs": fraction}, UNITS, COST)


def law(squared: tuple[float, float]) -> Any:
    return lambda widths: sum(s * (20 / k - 1) for s, k in zip(squared, widths, strict=True))


def test_it_loses_least_of_what_it_assumes() -> None:
    """Where costs are proportional to keeps it is the best plan there is: brute force agrees."""
    budget, lost = budget_of(0.4), law((0.4, 1.6))
    tuned = tune(UNITS, COST, Sensitivity(np.array([0.4, 1.6])), budget, lost)
    wishes = ReferencePlan(UNITS, COST, [tuned]).wishes(budget)
    plans = [(a, b) for a in range(1, 21) for b in range(1, 21) if 3 * a + b <= 0.4 * 80]
    best = np.array(min(plans, key=lost))
    np.testing.assert_allclose(wishes / wishes[1], best / best[1], rtol=0.1)
    assert wishes.max() == 1


@pytest.mark.parametrize(
    ("truth", "right"),
    [((1.0, 1.0), 0), ((0.125, 2.0), 1), ((8.0, 0.5), 2)],
    ids=["mean", "alone", "gradient"],
)
def test_the_opinion_whose_plan_loses_least_is_taken(
    truth: tuple[float, float], right: int
) -> None:
    known = Sensitivity(np.array([0.125, 2.0]), np.sqrt([8.0, 0.5]))
    np.testing.assert_allclose(known.estimates[0], 1.0)
    asked = []

    def lost(widths: tuple[int, ...]) -> float:
        asked.append(widths)
        return law(truth)(widths)  # type: ignore[no-any-return]

    tuned = tune(UNITS, COST, known, budget_of(0.5), lost)
    np.testing.assert_array_equal(tuned.squared, known.estimates[right])
    assert len(asked) == len(set(asked)) == 3
    np.testing.assert_array_equal(tuned.factors, 1)


def test_a_plan_follows_the_growth_as_long_as_it_loses_less_for_it() -> None:
    """Both units are taken to be alike, and a group of the second is worth nine of the first."""
    budget, known = budget_of(0.5), Sensitivity(np.ones(2))
    gained: list[tuple[int, ...]] = []
    asked: list[tuple[int, ...]] = []
    truth = (0.1, 8.1)

    def lost(widths: tuple[int, ...]) -> float:
        asked.append(widths)
        return law(truth)(widths)  # type: ignore[no-any-return]

    def gains(widths: tuple[int, ...]) -> np.ndarray:
        gained.append(widths)
        return np.array([s * 20 / k for s, k in zip(truth, widths, strict=True)])

    tuned = tune(UNITS, COST, known, budget, lost, gains)
    assert len(gained) == ROUNDS
    assert len(asked) == 1 + ROUNDS * len(STEPS)
    first, *changed = gained
    assert first == asked[0]
    assert changed == [asked[2]]  # of the two steps the longer one helped more
    plan = min(asked, key=law(truth))
    assert plan == asked[-1]
    # What comes of it is that plan itself.
    assert project(ReferencePlan(UNITS, COST, [tuned]).wishes(budget), UNITS, budget) == plan
    np.testing.assert_allclose(tuned.factors, np.array(plan) / first)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), None])
def test_a_plan_that_breaks_the_network_is_the_last_to_be_taken(broken: float | None) -> None:
    known, asked = Sensitivity(np.array([0.125, 2.0]), np.sqrt([8.0, 0.5])), []

    def lost(widths: tuple[int, ...]) -> float:
        asked.append(widths)
        if len(asked) != 3 and broken is None:
            raise EvaluationError("not finite")
        return 9.0 if len(asked) == 3 else broken  # type: ignore[return-value]

    tuned = tune(UNITS, COST, known, budget_of(0.5), numbered(lost), lambda _: np.full(2, np.nan))
    np.testing.assert_array_equal(tuned.squared, known.estimates[2])
    np.testing.assert_array_equal(tuned.factors, 1)


def test_growth_that_misleads_is_not_followed() -> None:
    truth, asked = (0.1, 8.1), []

    def lost(widths: tuple[int, ...]) -> float:
        asked.append(widths)
        return law(truth)(widths)  # type: ignore[no-any-return]

    known = Sensitivity(np.array(truth))
    tuned = tune(UNITS, COST, known, budget_of(0.5), lost, lambda _: np.array([9.0, 0.1]))
    assert len(asked) == 1 + len(STEPS)
    np.testing.assert_array_equal(tuned.factors, 1)


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        # Of three units of one price in a plan of thirds: over the median, at most three times it.
        ((1.0, 2.0, 20.0), (1 / 2, 1.0, 3.0)),
        ((-5.0, 2.0, 2.0), (1 / 3, 1.0, 1.0)),
        ((np.nan, 2.0, 4.0), (1 / 2, 2 / 3, 4 / 3)),
        ((np.nan, np.nan, np.nan), (1.0, 1.0, 1.0)),
        ((-1.0, -2.0, 3.0), (1.0, 1.0, 1.0)),
    ],
)
def test_growth_is_bounded(gains: tuple[float, ...], expected: tuple[float, ...]) -> None:
    class Even(Linear):
        prices = (1, 1, 1)

    units: Any = fake_units((1000, 1000, 1000), least=0.001)
    cost: Any = Even((1000, 1000, 1000))
    budget: Any = resolve({"macs": 1 / 3}, units, cost)
    looked: list[np.ndarray] = []

    def lost(widths: tuple[int, ...]) -> float:
        looked.append(np.array(widths))
        return -len(looked)  # every plan is better than the one before

    tune(units, cost, Sensitivity(np.ones(3)), budget, lost, lambda _: np.array(gains))
    step = looked[1] / looked[0]
    np.testing.assert_allclose(step / step[1], (np.array(expected) / expected[1]) ** 0.1, rtol=0.01)


def test_between_tuned_budgets_the_nearest_counts() -> None:
    whole: BudgetRange = budget_of((0.2, 0.8))
    ends = [
        Tuned(whole.at(0.0), np.ones(2), np.array([1.0, 2.0])),
        Tuned(whole.at(1.0), np.ones(2), np.array([2.0, 1.0])),
    ]
    reference = ReferencePlan(UNITS, COST, ends)
    # .4 is in the middle of .2 and .8: both are half and twice as much.
    for fraction, expected in ((0.2, 2.0), (0.39, 2.0), (0.41, 0.5)):
        wishes = reference.wishes(budget_of(fraction))
        first = project(np.sqrt(1 / np.array([3.0, 1.0])), UNITS, budget_of(fraction))
        np.testing.assert_allclose(wishes[1] / wishes[0], first[1] / first[0] * expected)
    np.testing.assert_array_equal(ReferencePlan(UNITS, COST).wishes(whole.at(0.5)), 1)


@pytest.mark.parametrize("limits", [{"macs": 0.5}, {"params": 0.5}, {"macs": (0.3, 0.7)}, {}])
def test_a_plan_on_the_budget_better_than_uniform_where_it_is_known_what_matters(
    limits: dict[str, Any],
) -> None:
    quality = fake_problem().evaluate
    units = fake_units(DENSE_9)
    known = Sensitivity.measure(units, lambda widths: quality(widths)["kl"])
    problem = fake_problem(limits=limits, evaluate=quality, known=known)
    for budget in problem.budgets.spread(3):
        reference, uniform = (
            problem.score(problem.reference(budget)),
            problem.score(problem.uniform(budget)),
        )
        if not limits:
            assert reference.widths == uniform.widths == DENSE_9
            continue
        (name,) = limits
        limit = budget.fraction(name)
        assert 0.98 * limit < reference.kept[name] <= limit
        assert reference.quality["kl"] < 0.9 * uniform.quality["kl"]
        ignorant = fake_problem(limits=limits, evaluate=quality)
        assert ignorant.reference(budget).widths == uniform.widths
