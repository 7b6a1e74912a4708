from __future__ import annotations

import itertools

import numpy as np
import pytest

from amc.agents.baselines.knapsack import Knapsack, fill_knapsack
from amc.envs.problem import PruningProblem
from amc.errors import ConfigError
from tests.fakes import fake_problem, play


def kept(scores: list[np.ndarray], widths: tuple[int, ...]) -> float:
    """Summed importance of the best groups at these widths."""
    pairs = zip(scores, widths, strict=True)
    return sum(float(np.sort(score)[::-1][:width].sum()) for score, width in pairs)


def optimum(problem: PruningProblem, scores: list[np.ndarray]) -> float:
    plans = itertools.product(*(unit.widths for unit in problem.units))
    return max(kept(scores, plan) for plan in plans if problem.budget.met(plan))


@pytest.mark.parametrize("limits", [{"macs": 0.5}, {"macs": 0.3}, {"macs": 0.6, "params": 0.4}])
@pytest.mark.parametrize("seed", range(4))
def test_close_to_the_best_of_all_plans(seed: int, limits: dict[str, float]) -> None:
    problem = fake_problem((8, 12, 6, 10), (0.1,) * 4, limits=limits)
    scale = np.exp(np.random.default_rng(seed).normal(0, 1, 4))
    scores = [s * np.asarray(x) for s, x in zip(scale, problem.prior.importance, strict=True)]
    widths = fill_knapsack(problem.units, scores, problem.budget)
    assert problem.budget.met(widths)
    assert kept(scores, widths) >= 0.98 * optimum(problem, scores)
    for unit in range(4):  # nothing more fits
        more = np.array(widths) + np.eye(4, dtype=int)[unit]
        assert more[unit] > problem.units[unit].width or not problem.budget.met(more)


def test_the_plan_that_is_played_is_the_one_computed() -> None:
    problem = fake_problem()
    widths = fill_knapsack(problem.units, problem.prior.importance, problem.budget)
    history = play(Knapsack(problem), problem, 5)
    assert [episode.widths for episode in history] == [widths]


def test_lazy_prices_choose_what_full_ones_choose() -> None:
    """The same descent with every price renewed at every step."""
    problem = fake_problem()
    scores = [np.sort(score)[::-1] for score in problem.prior.importance]
    widths = [unit.width for unit in problem.units]
    while not problem.budget.met(widths):
        prices = []
        for unit, width in enumerate(widths):
            then = [*widths[:unit], width - 1, *widths[unit + 1 :]]
            saved = problem.cost.macs(widths) - problem.cost.macs(then)
            out = width == problem.units[unit].widths[0]
            prices.append(np.inf if out else scores[unit][width - 1] / saved)
        widths[int(np.argmin(prices))] -= 1
    result = fill_knapsack(problem.units, problem.prior.importance, problem.budget)
    assert all(grown >= width for grown, width in zip(result, widths, strict=True))
    assert sum(result) - sum(widths) <= 3, "the filling of the slack"


def test_without_a_budget_there_is_nothing_to_fill() -> None:
    problem = fake_problem(limits={}, reward="amc-flops")
    with pytest.raises(ConfigError, match="knapsack"):
        Knapsack(problem)
