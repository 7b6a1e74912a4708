from __future__ import annotations

import itertools

import numpy as np
import pytest

from amc.agents.knapsack import Knapsack, fill_knapsack
from amc.envs.pruning import PruningEnv
from amc.errors import ConfigError
from tests.fakes import fake_env, play


def kept(scores: list[np.ndarray], widths: tuple[int, ...]) -> float:
    """Summed importance of the best groups at these widths."""
    pairs = zip(scores, widths, strict=True)
    return sum(float(np.sort(score)[::-1][:width].sum()) for score, width in pairs)


def optimum(env: PruningEnv, scores: list[np.ndarray]) -> float:
    plans = itertools.product(*(unit.widths for unit in env.units))
    return max(kept(scores, plan) for plan in plans if env.budget.met(plan))


@pytest.mark.parametrize("limits", [{"macs": 0.5}, {"macs": 0.3}, {"macs": 0.6, "params": 0.4}])
@pytest.mark.parametrize("seed", range(4))
def test_close_to_the_best_of_all_plans(seed: int, limits: dict[str, float]) -> None:
    env = fake_env((8, 12, 6, 10), (0.1,) * 4, limits=limits)
    scale = np.exp(np.random.default_rng(seed).normal(0, 1, 4))
    scores = [s * np.asarray(x) for s, x in zip(scale, env.importance, strict=True)]
    widths = fill_knapsack(env.units, scores, env.budget)
    assert env.budget.met(widths)
    assert kept(scores, widths) >= 0.98 * optimum(env, scores)
    for unit in range(4):  # nothing more fits
        more = np.array(widths) + np.eye(4, dtype=int)[unit]
        assert more[unit] > env.units[unit].width or not env.budget.met(more)


def test_the_plan_that_is_played_is_the_one_computed() -> None:
    env = fake_env()
    widths = fill_knapsack(env.units, env.importance, env.budget)
    history = play(Knapsack(env, env.importance), env, 5)
    assert [episode.widths for episode in history] == [widths]


def test_lazy_prices_choose_what_full_ones_choose() -> None:
    """The same descent with every price renewed at every step."""
    env = fake_env()
    scores = [np.sort(score)[::-1] for score in env.importance]
    widths = [unit.width for unit in env.units]
    while not env.budget.met(widths):
        prices = []
        for unit, width in enumerate(widths):
            then = [*widths[:unit], width - 1, *widths[unit + 1 :]]
            saved = env.cost.macs(widths) - env.cost.macs(then)
            out = width == env.units[unit].widths[0]
            prices.append(np.inf if out else scores[unit][width - 1] / saved)
        widths[int(np.argmin(prices))] -= 1
    result = fill_knapsack(env.units, env.importance, env.budget)
    assert all(grown >= width for grown, width in zip(result, widths, strict=True))
    assert sum(result) - sum(widths) <= 3, "the filling of the slack"


def test_without_a_budget_there_is_nothing_to_fill() -> None:
    env = fake_env(limits={}, reward="amc-flops")
    with pytest.raises(ConfigError, match="knapsack"):
        Knapsack(env, env.importance)
