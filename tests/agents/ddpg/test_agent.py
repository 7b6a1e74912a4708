from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch

from amc.agents.baselines.random_search import RandomSearch
from amc.agents.ddpg.agent import DDPGAgent, PruningDDPG
from amc.agents.ddpg.settings import DDPGConfig
from amc.envs.observation import FEATURES
from amc.presets import PRESETS
from amc.records.episode import Episode
from tests.fakes import FakeCost, FakeQuality, fake_problem, fake_units, play

SMALL: dict[str, Any] = {"hidden": (64, 64), "actor_lr": 5e-4, "gradient_steps": 30}


def run(settings: DDPGConfig, seed: int, episodes: int, **problem: Any) -> list[Episode]:
    fake = fake_problem(**problem)
    return play(DDPGAgent(fake, seed, settings), fake, episodes)


def test_finds_nearly_the_optimum_that_brute_force_knows() -> None:
    dense, sensitivity = (10, 12, 8), (0.4, 0.02, 0.15)
    cost, quality = FakeCost(dense), FakeQuality(dense, sensitivity)
    grids = [unit.widths for unit in fake_units(dense)]
    plans = [w for w in itertools.product(*grids) if cost.macs(w) <= 0.5 * cost.dense("macs")]
    optimum = max(-quality(widths)["kl"] for widths in plans)
    uniform = fake_problem(dense, sensitivity)
    start = next(iter(run(DDPGConfig(**SMALL), 0, 1, dense=dense, sensitivity=sensitivity)))
    assert start.executed_keep == pytest.approx(uniform.uniform_keep())
    for seed in range(3):
        history = run(DDPGConfig(**SMALL), seed, 80, dense=dense, sensitivity=sensitivity)
        best = max(episode.reward for episode in history)
        assert best <= optimum + 1e-12
        assert optimum - best < 0.2 * (optimum - start.reward)


def test_what_it_plays_in_the_end_beats_the_median_random_plan() -> None:
    problem = fake_problem()
    drawn = play(RandomSearch(problem, 0), problem, 200)
    bar = np.quantile([episode.reward for episode in drawn], 0.5)
    for seed in range(3):
        history = run(DDPGConfig(**SMALL), seed, 60)
        assert np.mean([episode.reward for episode in history[-10:]]) > bar


@pytest.mark.parametrize("constraint", ["projection", "sequential"])
def test_paper_preset_runs_on_the_budget(constraint: str) -> None:
    paper = DDPGConfig(**PRESETS["amc-paper"].settings)
    settings = paper.model_copy(update={"warmup_episodes": 4, "hidden": (32, 32)})
    history = run(settings, 0, 10, constraint=constraint)
    assert len(history) == 10
    assert all(episode.kept["macs"] <= 0.5 for episode in history)


def test_a_seed_determines_everything_and_globals_are_untouched() -> None:
    settings = DDPGConfig(**SMALL, warmup_episodes=3)
    torch.manual_seed(1), random.seed(1)
    states = torch.random.get_rng_state(), random.getstate()
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002
    one = run(settings, 7, 8)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_state)  # noqa: NPY002
    torch.manual_seed(2)
    two, other = run(settings, 7, 8), run(settings, 8, 8)

    def bits(history: list[Episode]) -> list[tuple[Any, ...]]:
        return [(e.proposed_keep, e.widths, e.reward) for e in history]

    assert bits(one) == bits(two) != bits(other)


def learner(**settings: Any) -> PruningDDPG:
    """A learner with one full batch of transitions behind it."""
    problem = fake_problem()
    settings = {"warmup_episodes": 9, **settings}
    agent = DDPGAgent(problem, 0, DDPGConfig(hidden=(16,), **settings))
    play(agent, problem, 4)
    return agent.model


def test_critic_targets_by_hand() -> None:
    model = learner(bootstrap=True, shaping="baseline", discount=0.9)
    batch = model.replay_buffer.sample(64)  # type: ignore[union-attr]
    assert 0 < batch.dones.sum() < 64
    first = model.critic_targets(batch)
    second = model.critic_targets(batch)
    mean = batch.rewards.mean()
    with torch.no_grad():
        mu = model.actor_target.mu(batch.next_observations)
        value = model.critic_target.q_networks[0](torch.cat([batch.next_observations, mu], 1))
    expected = batch.rewards - mean + 0.9 * (1 - batch.dones) * value
    torch.testing.assert_close(first, expected)
    torch.testing.assert_close(second, expected)  # the moving average of a constant

    model._baseline = 1.0
    moved = model.critic_targets(batch)
    torch.testing.assert_close(moved, expected + mean - (0.5 * 1.0 + 0.5 * mean))


def test_monte_carlo_target_is_the_credit() -> None:
    model = learner(bootstrap=False, shaping="rank")
    batch = model.replay_buffer.sample(64)  # type: ignore[union-attr]
    torch.testing.assert_close(model.critic_targets(batch), batch.rewards)
    assert len(batch.rewards.unique()) == 4


def test_one_update_moves_critic_and_actor_as_the_paper_says() -> None:
    model = learner(bootstrap=True, tau=0.25, actor_lr=1e-4, critic_lr=1e-3)
    old_target = [p.clone() for p in model.critic_target.parameters()]
    old_actor = [p.clone() for p in model.actor.parameters()]
    old_critic = [p.clone() for p in model.critic.parameters()]
    model.train(1)
    # The first step of Adam is the learning rate times the sign of the gradient.
    for old, new, rate in [
        *((o, n, 1e-4) for o, n in zip(old_actor, model.actor.parameters(), strict=True)),
        *((o, n, 1e-3) for o, n in zip(old_critic, model.critic.parameters(), strict=True)),
    ]:
        assert (new - old).abs().max().item() == pytest.approx(rate, rel=0.05)
    pairs = zip(
        old_target, model.critic.parameters(), model.critic_target.parameters(), strict=True
    )
    for old, learned, target in pairs:
        torch.testing.assert_close(target.data, 0.75 * old + 0.25 * learned.data)


def test_exploration_follows_the_schedule() -> None:
    problem = fake_problem()
    settings = DDPGConfig(hidden=(16,), gradient_steps=1, warmup_episodes=2, noise_floor=0.48)
    agent = DDPGAgent(problem, 0, settings)
    seen: list[float] = []
    for _ in range(5):
        seen.append(agent.diagnostics()["exploration/std"])
        play(agent, problem, 1)
    assert seen == pytest.approx([0.5, 0.5, 0.5, 0.5 * 0.97, 0.48])
    told = {"exploration/std", "losses/actor", "losses/critic"}
    assert set(agent.diagnostics()) == told | {"train/n_updates", "train/learning_rate"}


def test_under_a_range_each_walk_is_learned_under_its_own_budget() -> None:
    problem = fake_problem(limits={"macs": (0.3, 0.8)})
    agent = DDPGAgent(problem, 0, DDPGConfig(hidden=(16,), warmup_episodes=99))
    proposals = agent.ask(6)
    assert proposals[0] == replace(problem.uniform(proposals[0].budget), project_seconds=ANY)
    agent.tell([problem.score(proposal) for proposal in proposals])
    buffer = agent.model.replay_buffer
    assert buffer is not None
    column = [feature.name for feature in FEATURES].index("macs_budget")
    seen = buffer.observations[: 6 * 9, 0, column].reshape(6, 9)
    shares = [p.budget.limits["macs"] / problem.cost.dense("macs") for p in proposals]
    np.testing.assert_allclose(seen, np.repeat(np.array(shares)[:, None], 9, 1), rtol=1e-6)
    assert len(set(shares)) == 6
    assert agent.policy.trained_on.budget["macs"] == pytest.approx((0.3, 0.8))


def test_learning_goes_on_and_the_policy_is_a_copy() -> None:
    problem = fake_problem()
    agent = DDPGAgent(problem, 0, DDPGConfig(**SMALL, warmup_episodes=1))
    first = play(agent, problem, 2)
    policy = agent.policy
    observation = fake_problem().rollout().observation
    before = policy.act(observation)
    second = play(agent, problem, 3)
    assert [episode.number for episode in first + second] == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(policy.act(observation), before)
    assert agent.policy.act(observation) != before
    assert policy.trained_on.budget == {"macs": 0.5}
