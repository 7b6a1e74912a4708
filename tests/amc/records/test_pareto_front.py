"""Which plans are worth having, against all pairs; and choosing among them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from amc.config import SearchConfig
from amc.errors import BudgetError, ConfigError, PlanError
from amc.pruning.plan import Plan, UnitPlan
from amc.records.episode import Episode
from amc.records.pareto_front import Front, merit, nondominated

DENSE = {"macs": 1000, "params": 400}


def episode(number: int, macs: int, params: int, accuracy: float, **changes: Any) -> Episode:
    values: dict[str, Any] = {
        "number": number,
        "widths": (macs,),
        "proposed_keep": (0.5,),
        "executed_keep": (0.5,),
        "costs": {"macs": macs, "params": params},
        "kept": {"macs": macs / DENSE["macs"], "params": params / DENSE["params"]},
        "quality": {"accuracy": accuracy, "kl": 2 * (1 - accuracy)},
        "reward": accuracy,
        "seconds": {},
    }
    return Episode(**{**values, **changes})


def drawn(count: int, seed: int = 0) -> list[Episode]:
    generator = np.random.default_rng(seed)
    return [
        episode(
            number,
            int(generator.integers(100, 130)),
            int(generator.integers(50, 70)),
            int(generator.integers(1, 30)) / 30,
        )
        for number in range(1, count + 1)
    ]


@pytest.mark.parametrize("costs", [("macs",), ("params",), ("macs", "params")])
def test_no_other_beats_those_of_the_front_and_each_of_the_rest_is_beaten(costs):
    config = SearchConfig(budget=dict.fromkeys(costs, (0.1, 0.9)), reward="accuracy")

    def as_good(a: Episode, b: Episode) -> bool:
        """Whether ``a`` is no worse than ``b`` in anything."""
        return a.reward >= b.reward and all(a.costs[c] <= b.costs[c] for c in costs)

    for seed in range(20):
        episodes = drawn(40, seed)
        front = nondominated(episodes, config)
        for one in front:
            assert not any(as_good(other, one) and not as_good(one, other) for other in episodes)
        for one in episodes:
            assert any(as_good(other, one) for other in front)
        rewards = [one.reward for one in front]
        assert rewards == sorted(rewards)
        if len(costs) == 1:
            spent = [one.costs[costs[0]] for one in front]
            assert all(np.diff(spent) > 0)
            assert all(np.diff(rewards) > 0)
        # One by one, as a search finds them, comes to the same.
        grown: list[Episode] = []
        for one in episodes:
            grown = nondominated([*grown, one], config)
        assert [(e.costs["macs"], e.costs["params"], e.reward) for e in grown] == [
            (e.costs["macs"], e.costs["params"], e.reward) for e in front
        ]


def test_the_quality_that_counts_is_the_reward_s_or_the_accuracy():
    high_kl = episode(1, 500, 100, 0.9, quality={"accuracy": 0.9, "kl": 3.0})
    low_kl = episode(2, 500, 100, 0.8, quality={"accuracy": 0.8, "kl": 1.0})
    by_kl = SearchConfig(budget={"macs": (0.1, 0.9)})
    assert nondominated([high_kl, low_kl], by_kl) == [low_kl]
    for config in (SearchConfig(min_accuracy=0.5), SearchConfig(reward="amc-flops")):
        assert nondominated([high_kl, low_kl], config) == [high_kl]


def test_the_plan_of_a_range_is_the_best_within_its_middle():
    episodes = [episode(n, macs, 100, macs / 1000) for n, macs in enumerate((300, 549, 551, 800))]

    def best(**values: Any) -> int:
        config = SearchConfig(**values)
        return max(range(4), key=lambda index: merit(episodes[index], config))

    assert best(budget={"macs": (0.3, 0.8)}) == 1
    assert best(budget={"macs": (300, 800)}) == 1
    assert best(budget={"macs": 0.8}) == 3
    assert best(budget={"macs": (0.3, 0.8)}, min_accuracy=0.1) == 3
    assert best(budget={"macs": (0.1, 0.2)}) == 3  # none is within: the best of all
    assert best(reward="amc-flops") == 3


def plan(macs: int, params: int, accuracy: float) -> Plan:
    return Plan(
        weights_sha256="0",
        units=(UnitPlan(name="a", width=2, kept=(0,)),),
        costs={"macs": macs, "params": params},
        dense_costs=DENSE,
        quality={"accuracy": accuracy},
    )


PLANS = (plan(300, 40, 0.5), plan(420, 100, 0.6), plan(500, 80, 0.7), plan(800, 200, 0.9))
FRONT = Front(dense_quality={"accuracy": 0.95}, plans=PLANS)


@pytest.mark.parametrize(
    ("limits", "chosen"),
    [
        ({"macs": 0.42}, 1),
        ({"macs": 0.419}, 0),
        ({"macs": 420}, 1),
        ({"macs": 1.0}, 3),
        ({"macs": 0.9, "params": 0.2}, 2),
        ({"params": 99}, 2),
    ],
)
def test_the_best_plan_within_a_budget(limits, chosen):
    assert FRONT.within(limits) == PLANS[chosen]


def test_a_budget_below_all_plans_and_a_range(tmp_path):
    with pytest.raises(BudgetError, match=r"none of the 4 .*30.0% of the MACs, 10.0% of the param"):
        FRONT.within({"macs": 0.29})
    with pytest.raises(ConfigError, match=r"0\.3:0\.5: choose a plan by one bound"):
        FRONT.within({"macs": (0.3, 0.5)})
    FRONT.save(tmp_path / "front.json")
    assert Front.load(tmp_path / "front.json") == FRONT
    with pytest.raises(PlanError, match="only a search over a range of budgets has several"):
        Front.load(tmp_path / "none.json")
    (tmp_path / "front.json").write_text('{"format": "amc.front/2"}')
    with pytest.raises(PlanError, match=r"not a sound front: format.*amc\.front/1"):
        Front.load(tmp_path / "front.json")
