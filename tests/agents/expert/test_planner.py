from __future__ import annotations

import itertools

import numpy as np
import pytest

from amc.agents.expert.critic import PlanCritic
from amc.agents.expert.planner import Planner
from tests.fakes import DENSE_9, SENSITIVITY_9, FakeQuality, fake_problem


@pytest.mark.parametrize("limits", [{"macs": 0.5}, {"macs": 0.6, "params": 0.3}, {}])
def test_relaxed_plans_meet_the_budget_from_below(limits: dict[str, float]) -> None:
    problem = fake_problem(limits=limits, reward="kl" if limits else "amc-flops")
    actions = np.random.default_rng(0).uniform(-1, 1, (40, 9))
    keeps = Planner(problem, np.random.default_rng(0)).relaxed(actions, problem.budget)
    wishes = problem.least_keep ** ((1 - actions) / 2)
    if not limits:
        np.testing.assert_allclose(keeps, wishes)
        return
    kept = [problem.cost.totals(q, keeps * DENSE_9) / problem.budget.limits[q] for q in limits]
    assert (np.max(kept, axis=0) <= 1).all()
    assert (np.max(kept, axis=0) > 0.999).all()
    free = (keeps > problem.least_keep * 1.001) & (keeps < 0.999)
    scales = np.where(free, keeps / wishes, np.nan)
    np.testing.assert_allclose(np.nanmin(scales, 1), np.nanmax(scales, 1))  # one factor a plan


def test_relaxed_is_what_the_projection_rounds() -> None:
    dense = tuple(64 * width for width in DENSE_9)  # fine grids: rounding hardly matters
    problem = fake_problem(dense, SENSITIVITY_9)
    actions = np.random.default_rng(1).uniform(-1, 1, (10, 9))
    keeps = Planner(problem, np.random.default_rng(0)).relaxed(actions, problem.budget)
    for row, keep in zip(actions, keeps, strict=True):
        projected = np.array(problem.decode(row).widths) / dense
        np.testing.assert_allclose(projected, keep, atol=0.02)


def test_finds_the_best_plan_of_a_critic_that_brute_force_knows() -> None:
    dense, sensitivity = (10, 12, 8), (0.4, 0.02, 0.15)
    problem, quality = fake_problem(dense, sensitivity), FakeQuality(dense, sensitivity)
    grids = [unit.widths for unit in problem.units]
    plans = [w for w in itertools.product(*grids) if problem.budget.met(w)]
    critic = PlanCritic()
    keeps = np.array(plans) / dense
    some = np.random.default_rng(0).choice(len(plans), 60, replace=False)
    critic.fit(keeps[some], np.array([quality(plans[i])["kl"] for i in some]))
    optimum = critic.optimistic(keeps, 0.5).max()
    start = problem.encode(problem.uniform_keep())[None]
    planner = Planner(problem, np.random.default_rng(0))
    found = planner.improve(critic, problem.budget, start, 0.5)
    relaxed = critic.optimistic(planner.relaxed(found, problem.budget), 0.5)
    assert (np.diff(relaxed[:16]) <= 1e-12).all()  # best first
    assert relaxed[0] >= optimum - 1e-3  # no grid is finer than none
