from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_sb3

from amc.cost.budget import Budget
from amc.envs.problem import Prior, PruningProblem
from amc.envs.pruning import PruningEnv
from amc.errors import ConfigError, EvaluationError, UnitError
from amc.records.episode import Episode
from tests.fakes import DENSE_9, FakeCost, fake_problem, rollout

CONSTRAINTS = ("projection", "sequential")


@pytest.mark.parametrize("limits", [{"macs": 0.5}, {"macs": (0.3, 0.8), "params": (0.2, 0.9)}])
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_checkers_find_nothing(constraint: str, limits: Any) -> None:
    check_env(
        PruningEnv(fake_problem(constraint=constraint, limits=limits)), skip_render_check=True
    )
    check_env_sb3(PruningEnv(fake_problem(constraint=constraint, limits=limits)))


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_copies_roll_out_identically_and_observations_are_in_bounds(constraint: str) -> None:
    one, two = (PruningEnv(fake_problem(constraint=constraint)) for _ in range(2))
    generator = np.random.default_rng(1)
    one.reset(seed=5), two.reset(seed=5)
    for _ in range(20):
        actions = generator.uniform(-1, 1, 9)
        (a, reward_a, info_a), (b, reward_b, info_b) = rollout(one, actions), rollout(two, actions)
        assert all(one.observation_space.contains(row) for row in a)
        np.testing.assert_array_equal(a, b)
        assert reward_a == reward_b
        assert info_a["plan"]["widths"] == info_b["plan"]["widths"]


def test_episode_accounts_for_itself() -> None:
    env, cost = PruningEnv(fake_problem()), FakeCost(DENSE_9)
    _, reward, info = rollout(env, np.linspace(-1, 1, 9))
    episode = Episode.from_json(info["plan"])
    assert episode.number == 1
    assert episode.reward == reward == -episode.quality["kl"]
    assert episode.costs["macs"] == cost.macs(episode.widths) <= 0.5 * cost.dense("macs")
    assert episode.kept["params"] == cost.params(episode.widths) / cost.dense("params")
    assert episode.executed_keep == tuple(
        k / width for k, width in zip(episode.widths, DENSE_9, strict=True)
    )
    least = [unit.widths[0] / unit.width for unit in env.problem.units]
    wishes = [keep ** ((1 - a) / 2) for keep, a in zip(least, np.linspace(-1, 1, 9), strict=True)]
    assert episode.proposed_keep == pytest.approx(wishes, rel=1e-6)
    assert set(episode.seconds) == {"project", "evaluate"}
    assert Episode.from_json(json.loads(json.dumps(episode.to_json()))) == episode
    assert Episode.from_json(rollout(env, np.zeros(9))[2]["plan"]).number == 2


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_proposing_the_executed_walk_repeats_it(constraint: str) -> None:
    env = PruningEnv(fake_problem(constraint=constraint))
    generator = np.random.default_rng(2)
    for _ in range(20):
        _, reward, info = rollout(env, generator.uniform(-1, 1, 9))
        executed = info["executed"]
        observations, again, repeated = rollout(env, executed["actions"][:, 0])
        assert repeated["plan"]["widths"] == info["plan"]["widths"]
        assert again == reward
        np.testing.assert_allclose(observations, executed["observations"], atol=1e-6)


def test_reward_comes_at_the_end_only() -> None:
    env = PruningEnv(fake_problem())
    env.reset()
    steps = [env.step(np.zeros(1, np.float32)) for _ in range(9)]
    assert [reward for _, reward, *_ in steps[:-1]] == [0.0] * 8
    assert [terminated for _, _, terminated, *_ in steps] == [False] * 8 + [True]
    with pytest.raises(ConfigError, match="call reset"):
        env.step(np.zeros(1, np.float32))


def test_uniform_plan() -> None:
    env = PruningEnv(fake_problem())
    problem = env.problem
    keeps = problem.uniform_keep()
    env.reset()
    for action in problem.encode(keeps):
        *_, info = env.step(np.array([action]))
    assert info["plan"]["executed_keep"] == pytest.approx(keeps)
    assert problem.decode(problem.encode(keeps)).widths == tuple(info["plan"]["widths"])
    assert max(keeps) - min(keeps) < 0.07  # one step of the narrowest unit


def test_a_new_budget_at_reset() -> None:
    env = PruningEnv(fake_problem())
    cost = FakeCost(DENSE_9)
    tight = Budget({"params": 0.3 * cost.dense("params")}, cost)  # type: ignore[arg-type]
    before, _ = env.reset()
    after, _ = env.reset(options={"budget": tight})
    assert (before[20], before[21]) == (np.float32(0.5), 1)
    assert (after[20], after[21]) == (1, np.float32(0.3))
    _, _, info = rollout(env, np.zeros(9))
    assert 0.28 < info["plan"]["kept"]["params"] <= 0.3


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_each_episode_draws_its_budget_from_a_range(constraint: str) -> None:
    problem = fake_problem(limits={"macs": (0.3, 0.8), "params": 0.6}, constraint=constraint)
    env, dense = PruningEnv(problem), problem.cost.dense("macs")
    assert env.budget.limits["macs"] == pytest.approx(0.55 * dense)  # before the first reset

    def drawn(seed: int) -> list[float]:
        limits = []
        for episode in range(12):
            observation, _ = env.reset(seed=seed if episode == 0 else None)
            assert observation[20] == np.float32(env.budget.limits["macs"] / dense)
            for _ in range(9):
                *_, info = env.step(np.array([1.0], np.float32))
            found = Episode.from_json(info["plan"])
            assert found.budget == env.budget.limits
            assert found.budget["params"] == 0.6 * problem.cost.dense("params")
            assert env.budget.met(found.widths)
            limits.append(found.budget["macs"] / dense)
        return limits

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert first == again != other
    assert 0.3 <= min(first) < 0.45
    assert 0.65 < max(first) <= 0.8


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_walks_under_budgets_of_their_own(constraint: str) -> None:
    problem = fake_problem(limits={"macs": (0.3, 0.8)}, constraint=constraint)
    generator = np.random.default_rng(0)
    for budget in problem.budgets.spread(4):
        share = budget.limits["macs"] / problem.cost.dense("macs")
        proposal = problem.decode(generator.uniform(-1, 1, 9), budget)
        assert proposal.budget is budget
        episode = problem.score(proposal)
        assert episode.budget == budget.limits
        assert episode.kept["macs"] <= share
        observations, actions = problem.retrace(episode.widths, budget)
        assert observations[:, 20] == pytest.approx(share)
        assert problem.decode(actions[:, 0], budget).widths == episode.widths
        uniform = problem.uniform(budget)
        assert 0.97 * share < problem.score(uniform).kept["macs"] <= share
        assert max(problem.uniform_keep(budget)) - min(problem.uniform_keep(budget)) < 0.17
    assert problem.rollout().budget is problem.budget


def test_episodes_of_before_there_were_ranges_are_read() -> None:
    env = PruningEnv(fake_problem())
    values = rollout(env, np.zeros(9))[2]["plan"]
    del values["budget"]
    assert Episode.from_json(values).budget == {}


def test_without_a_budget_the_wishes_are_taken() -> None:
    env = PruningEnv(fake_problem((10, 20), (0.1, 0.1), limits={}, reward="amc-flops"))
    _, reward, info = rollout(env, [0.0, 1.0])
    assert info["plan"]["widths"] == [3, 20]  # the nearest to 10 * sqrt(.1), all of 20
    error = 1 - info["plan"]["quality"]["accuracy"]
    assert reward == pytest.approx(-error * math.log(info["plan"]["costs"]["macs"]))


def test_faults() -> None:
    env = PruningEnv(fake_problem())
    env.reset()
    with pytest.raises(EvaluationError, match="action nan on unit conv0"):
        env.step(np.array([np.nan], np.float32))
    broken = fake_problem((4, 4), (0.1, 0.1), evaluate=lambda _: {"kl": math.nan})
    with pytest.raises(EvaluationError, match=r"widths \[\d, \d\]: kl is nan"):
        rollout(PruningEnv(broken), [0, 0])
    values: Any = fake_problem()
    with pytest.raises(UnitError, match="no unit"):
        PruningProblem([], values.cost, values.budgets, dict, replace, Prior([]))  # type: ignore[arg-type]
