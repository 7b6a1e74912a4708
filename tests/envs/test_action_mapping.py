from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from amc.cost.budget import Budget
from amc.envs.action_mapping import make_action_mapping
from amc.envs.pruning import PruningEnv
from amc.errors import BudgetError, ConfigError
from tests.fakes import FakeCost, fake_problem, fake_units, rollout


def build(name: str, dense: tuple[int, ...] = (8, 12, 6), fraction: float = 0.5) -> Any:
    cost = FakeCost(dense)
    budget = Budget({"macs": fraction * cost.dense("macs")}, cost)  # type: ignore[arg-type]
    return make_action_mapping(name, fake_units(dense, 0.25), cost, budget)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["projection", "sequential"])
def test_action_is_the_inverse_of_the_wish(name: str) -> None:
    constraint = build(name)
    assert constraint.wish(0, -1.0) == pytest.approx(0.25)
    assert constraint.wish(0, 1.0) == pytest.approx(1.0)
    middle = {"projection": 0.5, "sequential": 0.625}[name]  # geometric and arithmetic mean
    assert constraint.wish(0, 0.0) == pytest.approx(middle)
    for action in np.linspace(-1, 1, 11):
        assert constraint.action(0, constraint.wish(0, action)) == pytest.approx(action)


def test_sequential_takes_the_largest_width_that_leaves_the_budget_in_reach() -> None:
    dense = (8, 12, 6)
    constraint, units, cost = build("sequential"), fake_units(dense, 0.25), FakeCost(dense)
    limit = 0.5 * cost.dense("macs")
    least = [unit.widths[0] for unit in units]
    for first, second in itertools.product(units[0].widths, units[1].widths):
        chosen = [first, second]
        for index in range(3):
            before = chosen[:index]
            if cost.macs([*before, *least[index:]]) > limit:
                continue  # the walk cannot have come here
            for wish in (0.3, 0.6, 1.0):
                wished = round(wish * dense[index])
                oracle = max(
                    k
                    for k in units[index].widths
                    if k == least[index]
                    or (k <= wished and cost.macs([*before, k, *least[index + 1 :]]) <= limit)
                )
                assert constraint.admit(index, wish, before) == oracle


def test_random_sequential_walks_never_exceed_the_budget() -> None:
    limits = {"macs": 0.4, "params": 0.35}
    env = PruningEnv(fake_problem(limits=limits, constraint="sequential"))
    generator = np.random.default_rng(3)
    for _ in range(200):
        _, _, info = rollout(env, generator.uniform(-1, 1, 9))
        assert info["plan"]["kept"]["macs"] <= 0.4
        assert info["plan"]["kept"]["params"] <= 0.35
    _, _, info = rollout(env, np.ones(9))  # greedy: as much as is allowed, as early as possible
    assert info["plan"]["kept"]["params"] > 0.33


def test_faults() -> None:
    with pytest.raises(ConfigError, match="'clip' is unknown; choose from projection, sequential"):
        build("clip")
    with pytest.raises(BudgetError, match=r"cannot be met: the narrowest network needs \d+ MACs"):
        build("projection", fraction=0.01)
