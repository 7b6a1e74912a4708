from __future__ import annotations

import itertools

import numpy as np
import pytest

from amc.agents.critic import PlanCritic
from amc.agents.planner import Planner
from tests.fakes import DENSE_9, SENSITIVITY_9, FakeQuality, fake_env


@pytest.mark.parametrize("limits", [{"macs": 0.5}, {"macs": 0.6, "params": 0.3}, {}])
def test_relaxed_plans_meet_the_budget_from_below(limits: dict[str, float]) -> None:
    env = fake_env(limits=limits, reward="kl" if limits else "amc-flops")
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 9))
    keeps = Planner(env, np.random.default_rng(0)).relaxed(actions, env.budget)
    wishes = env.least_keep ** ((1 - actions) / 2)
    if not limits:
        np.testing.assert_allclose(keeps, wishes)
        return
    kept = [env.cost.totals(q, keeps * DENSE_9) / env.budget.limits[q] for q in limits]
    assert (np.max(kept, axis=0) <= 1).all()
    assert (np.max(kept, axis=0) > 0.999).all()
    free = (keeps > env.least_keep * 1.001) & (keeps < 0.999)
    scales = np.where(free, keeps / wishes, np.nan)
    np.testing.assert_allclose(np.nanmin(scales, 1), np.nanmax(scales, 1))  # one factor a plan


def test_relaxed_is_what_the_projection_rounds() -> None:
    dense = tuple(64 * width for width in DENSE_9)  # fine grids: rounding hardly matters
    env = fake_env(dense, SENSITIVITY_9)
    actions = np.random.default_rng(1).uniform(-1, 1, (10, 9))
    keeps = Planner(env, np.random.default_rng(0)).relaxed(actions, env.budget)
    for row, keep in zip(actions, keeps, strict=True):
        projected = np.array(env.decode(row).widths) / dense
        np.testing.assert_allclose(projected, keep, atol=0.02)


def test_finds_the_best_plan_of_a_critic_that_brute_force_knows() -> None:
    dense, sensitivity = (10, 12, 8), (0.4, 0.02, 0.15)
    env, quality = fake_env(dense, sensitivity), FakeQuality(dense, sensitivity)
    grids = [unit.widths for unit in env.units]
    plans = [w for w in itertools.product(*grids) if env.budget.met(w)]
    critic = PlanCritic()
    keeps = np.array(plans) / dense
    some = np.random.default_rng(0).choice(len(plans), 60, replace=False)
    critic.fit(keeps[some], np.array([quality(plans[i])["kl"] for i in some]))
    optimum = critic.optimistic(keeps, 0.5).max()
    start = env.encode(env.uniform_keep())[None]
    planner = Planner(env, np.random.default_rng(0))
    found = planner.improve(critic, env.budget, start, 0.5)
    relaxed = critic.optimistic(planner.relaxed(found, env.budget), 0.5)
    assert (np.diff(relaxed[:16]) <= 1e-12).all()  # best first
    assert relaxed[0] >= optimum - 1e-3  # no grid is finer than none
