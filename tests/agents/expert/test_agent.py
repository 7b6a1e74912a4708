from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from amc.agents.baselines.random_search import RandomSearch
from amc.agents.expert.agent import ExpertIteration
from amc.agents.expert.settings import ExpertConfig
from amc.agents.warm_start import Start
from amc.agents.warm_start import play as play_policy
from amc.cost.budget import Budget, BudgetRange
from amc.envs.reward import FloorReward
from amc.envs.sensitivity import Sensitivity
from amc.errors import ConfigError
from amc.records.episode import Episode
from tests.fakes import (
    DENSE_9,
    SENSITIVITY_9,
    FakeCost,
    FakeQuality,
    fake_problem,
    fake_units,
    play,
)


def run(seed: int, episodes: int, **problem: Any) -> list[Episode]:
    fake = fake_problem(**problem)
    return play(ExpertIteration(fake, seed, ExpertConfig()), fake, episodes)


def test_finds_the_optimum_that_brute_force_knows() -> None:
    dense, sensitivity = (10, 12, 8), (0.4, 0.02, 0.15)
    cost, quality = FakeCost(dense), FakeQuality(dense, sensitivity)
    grids = [unit.widths for unit in fake_units(dense)]
    plans = [w for w in itertools.product(*grids) if cost.macs(w) <= 0.5 * cost.dense("macs")]
    ranked = sorted(-quality(widths)["kl"] for widths in plans)
    for seed in range(3):
        history = run(seed, 25, dense=dense, sensitivity=sensitivity)
        assert history[0].executed_keep == pytest.approx(
            fake_problem(dense, sensitivity).uniform_keep()
        )
        assert max(episode.reward for episode in history) >= ranked[-4]


def test_thirty_episodes_beat_three_hundred_random_ones() -> None:
    problem = fake_problem()
    drawn = max(episode.reward for episode in play(RandomSearch(problem, 0), problem, 300))
    for seed in range(3):
        assert max(episode.reward for episode in run(seed, 30)) > drawn


def test_the_actor_alone_plays_nearly_as_well_as_the_best_plan() -> None:
    problem = fake_problem()
    agent = ExpertIteration(problem, 0, ExpertConfig())
    history = play(agent, problem, 60)
    walk = problem.rollout()
    for _ in problem.units:
        walk.decide(float(agent.policy.act(walk.observation)[0]))
    alone, best = problem.score(walk.propose()).reward, max(e.reward for e in history)
    uniform = history[0].reward
    assert alone - uniform > 0.8 * (best - uniform)


def test_no_plan_is_played_twice_and_all_are_on_the_budget() -> None:
    history = run(0, 40)
    assert len({episode.widths for episode in history}) == 40
    assert all(0.47 < episode.kept["macs"] <= 0.5 for episode in history)


def test_a_batch_holds_different_plans_that_the_critic_likes() -> None:
    problem = fake_problem()
    agent = ExpertIteration(problem, 0, ExpertConfig())
    warm = play(agent, problem, 12)
    batch = agent.ask(4)
    assert len({proposal.widths for proposal in batch}) == 4
    done = [problem.score(proposal) for proposal in batch]
    assert np.median([e.reward for e in done]) > np.median([e.reward for e in warm[:6]])
    agent.tell(done)
    (training,) = agent.policy.trained_on.networks
    assert training.episodes == 16
    told = agent.diagnostics()
    assert set(told) == {"losses/actor", "losses/critic", "exploration/critic_std"}
    assert told["losses/critic"] < 0.5  # of the logarithm: the critic has understood something


def test_a_seed_determines_the_episodes() -> None:
    def bits(seed: int) -> list[tuple[Any, ...]]:
        return [(e.proposed_keep, e.widths, e.reward) for e in run(seed, 15)]

    assert bits(3) == bits(3) != bits(4)


def test_without_a_budget_the_reward_weighs_cost() -> None:
    dense, sensitivity = (10, 12, 8), (0.01, 0.001, 0.005)
    quality = FakeQuality(dense, sensitivity)

    def evaluate(widths: Sequence[int]) -> dict[str, float]:
        return {"accuracy": 0.8 * quality(widths)["accuracy"]}  # the dense network errs, too

    history = run(0, 30, dense=dense, limits={}, reward="amc-flops", evaluate=evaluate)
    problem = fake_problem(dense, (), limits={}, reward="amc-flops", evaluate=evaluate)
    plans = itertools.product(*(unit.widths for unit in problem.units))
    costs = {widths: {"macs": problem.cost.macs(widths)} for widths in plans}
    ranked = sorted(problem.reward(evaluate(w), cost) for w, cost in costs.items())
    assert max(episode.reward for episode in history) >= ranked[-5]


def test_it_needs_the_projection() -> None:
    with pytest.raises(ConfigError, match="choose --constraint projection, or --agent ddpg"):
        ExpertIteration(fake_problem(constraint="sequential"), 0, ExpertConfig())


def test_the_cheapest_network_of_an_accuracy_that_brute_force_knows() -> None:
    dense, floor = (10, 12, 8), 0.8
    problem = fake_problem(dense, (0.4, 0.02, 0.15))
    problem.reward = FloorReward(floor, "macs", problem.cost.dense("macs"))
    plans = list(itertools.product(*(unit.widths for unit in problem.units)))
    held = [problem.cost.macs(w) for w in plans if problem.evaluate(w)["accuracy"] >= floor]
    least, most = problem.cost.macs(plans[0]), problem.cost.dense("macs")
    cost: Any = problem.cost
    problem.budgets = BudgetRange(Budget({"macs": least}, cost), Budget({"macs": most}, cost))
    for seed in range(2):
        history = play(ExpertIteration(problem, seed, ExpertConfig()), problem, 25)
        good = [
            episode.costs["macs"] for episode in history if episode.quality["accuracy"] >= floor
        ]
        assert min(good) <= 1.03 * min(held)


def test_a_range_is_learned_as_a_whole() -> None:
    quality = FakeQuality(DENSE_9, SENSITIVITY_9)
    known = Sensitivity.measure(fake_units(DENSE_9), lambda widths: quality(widths)["kl"])
    problem = fake_problem(known=known)
    cost: Any = problem.cost
    dense = problem.cost.dense("macs")
    problem.budgets = BudgetRange(
        Budget({"macs": 0.3 * dense}, cost), Budget({"macs": 0.8 * dense}, cost)
    )
    agent = ExpertIteration(problem, 0, ExpertConfig())
    history = play(agent, problem, 60)
    assert len({episode.budget["macs"] for episode in history}) == 60
    for fraction in (0.31, 0.65):
        budget: Any = Budget({"macs": fraction * problem.cost.dense("macs")}, cost)
        alone = problem.score(play_policy(agent.policy, problem, budget))
        uniform = problem.score(problem.uniform(budget))
        reference = problem.score(problem.reference(budget))
        searched = max(e.reward for e in run(1, 40, limits={"macs": fraction}))
        assert 0.99 * fraction < alone.kept["macs"] <= fraction
        assert alone.reward - uniform.reward > 0.75 * (searched - uniform.reward)
        assert alone.reward > reference.reward


def test_every_part_of_a_range_is_taught_whatever_the_batches() -> None:
    problem = fake_problem()
    cost: Any = problem.cost
    dense = problem.cost.dense("macs")
    problem.budgets = BudgetRange(
        Budget({"macs": 0.3 * dense}, cost), Budget({"macs": 0.8 * dense}, cost)
    )
    agent = ExpertIteration(problem, 0, ExpertConfig(range_memory=8, range_gradient_steps=0))
    taught: list[float] = []
    retrace = problem.retrace
    problem.retrace = lambda widths, budget: (  # type: ignore[method-assign, assignment]
        taught.append(budget.fraction("macs")) or retrace(widths, budget)  # type: ignore[func-returns-value]
    )
    for _ in range(10):
        agent.tell([problem.score(proposal) for proposal in agent.ask(4)])
    first, again = taught[:8], taught[8:]
    assert first[:4] == pytest.approx([0.3, 0.3 + 0.5 / 3, 0.3 + 1 / 3, 0.8])
    assert len(set(first)) == 8
    assert again == first[: len(again)]


@pytest.mark.parametrize(
    ("bound", "uses", "ignores"),
    [(0.5, "", "range_"), ((0.3, 0.8), "range_", "")],
    ids=["one budget", "a range"],
)
def test_a_range_has_settings_of_its_own(bound: Any, uses: str, ignores: str) -> None:
    others = {"optimism": 9.0, "gradient_steps": 3, "memory": 2}
    quick: dict[str, Any] = {"warmup_episodes": 2, "gradient_steps": 9, "range_gradient_steps": 9}

    def found(prefix: str, names: Iterable[str]) -> tuple[list[tuple[int, ...]], list[float]]:
        problem = fake_problem((10, 12, 8), (0.4, 0.02, 0.15), limits={"macs": bound})
        settings = ExpertConfig(**quick | {prefix + name: others[name] for name in names})
        agent = ExpertIteration(problem, 0, settings)
        history = play(agent, problem, 4)
        begun = problem.rollout(problem.budgets.at(0.5)).observation
        return [e.widths for e in history], agent.policy.act(begun).tolist()

    usual = found(uses, ())
    assert found(ignores, others) == usual
    assert all(found(uses, (name,)) != usual for name in others)


def test_a_given_policy_makes_the_first_plan_and_is_explored_around() -> None:
    problem = fake_problem()
    teacher = ExpertIteration(problem, 0, ExpertConfig())
    play(teacher, problem, 40)
    start = Start.of_policy(teacher.policy, problem)
    agent = ExpertIteration(problem, 1, ExpertConfig(hidden=(8,)), start)
    history = play(agent, problem, 6)
    assert history[0].widths == play_policy(teacher.policy, problem, problem.budget).widths
    scratch = run(1, 6)
    assert max(e.reward for e in history) > max(e.reward for e in scratch)


def test_what_is_known_of_the_network_is_where_a_search_begins() -> None:
    problem = fake_problem(known=Sensitivity(np.array(SENSITIVITY_9) / np.mean(SENSITIVITY_9)))
    history = play(ExpertIteration(problem, 0, ExpertConfig()), problem, 20)
    assert [e.widths for e in history[:2]] == [problem.reference().widths, problem.uniform().widths]
    assert max(e.reward for e in history[:8]) > max(e.reward for e in run(0, 8))
    elsewhere = Start.of_keeps(np.linspace(0.1, 1.0, len(problem.units)), problem)
    history = play(ExpertIteration(problem, 0, ExpertConfig(), elsewhere), problem, 2)
    assert history[0].widths == elsewhere.plan(problem.budget).widths
    untrained = ExpertIteration(problem, 0, ExpertConfig()).policy
    assert play_policy(untrained, problem, problem.budget).widths == problem.reference().widths


def test_a_start_that_misleads_costs_little() -> None:
    problem = fake_problem()
    backwards = np.linspace(1.0, 0.1, len(problem.units))
    best = []
    for keeps in (backwards, backwards[::-1]):
        start = Start.of_keeps(keeps, problem)
        agent = ExpertIteration(problem, 0, ExpertConfig(), start)
        history = play(agent, problem, 30)
        uniform = problem.decode(
            problem.encode(problem.uniform_keep(problem.budget)), problem.budget
        )
        assert (
            history[0].widths
            == problem.decode(
                problem.encode(start.plan(problem.budget).wishes), problem.budget
            ).widths
        )
        assert history[1].widths == uniform.widths
        near, far = (np.array([e.executed_keep for e in history[i:6:2]]) for i in (0, 1))
        assert np.ptp(np.log(near), axis=0).mean() < np.ptp(np.log(far), axis=0).mean()
        best.append(max(e.reward for e in history))
    scratch = max(e.reward for e in run(0, 30))
    assert min(best) > scratch + 0.25 * scratch  # rewards are below 0
