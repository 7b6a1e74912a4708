from __future__ import annotations

import warnings

import numpy as np
import pytest

from amc.agents.baselines.fixed_plans import Replayed
from amc.agents.ddpg.settings import DDPGConfig
from amc.agents.expert.settings import ExpertConfig
from amc.agents.policy import Policy, TrainedOn
from amc.agents.policy_network import Ensemble, make_single
from amc.agents.registry import make_agent
from amc.agents.warm_start import Start, play
from amc.envs.pruning import PruningEnv
from amc.envs.sensitivity import Sensitivity
from amc.errors import ConfigError
from tests.fakes import DENSE_9, drawn, fake_problem, fake_units
from tests.fakes import play as play_agent


def policy(
    budget: object = None, constraint: str = "projection", *, ensemble: bool = False
) -> Policy:
    """An untrained actor with a strong opinion on every unit."""
    actor = drawn(Ensemble((16,), 3) if ensemble else make_single((16,)), std=0.4, seed=3)
    trained_on = TrainedOn.parse({"budget": budget or {"macs": 0.5}})
    return Policy(actor, constraint, trained_on)  # type: ignore[arg-type]


def test_the_policy_s_plan_is_the_walk_of_its_actions() -> None:
    problem, chosen = fake_problem(), policy()
    (episode,) = play_agent(Replayed(problem, start=Start.of_policy(chosen, problem)), problem, 10)
    env = PruningEnv(problem)
    observation, _ = env.reset()
    for _ in DENSE_9:
        observation, _, _, _, info = env.step(chosen.act(observation))
    assert tuple(info["plan"]["widths"]) == episode.widths
    assert 0.49 < episode.kept["macs"] <= 0.5
    assert episode.widths != problem.uniform().widths


def test_a_range_is_replayed_at_evenly_spaced_budgets() -> None:
    problem = fake_problem(limits={"macs": (0.3, 0.8)})
    chosen = policy({"macs": [0.3, 0.8]})
    history = play_agent(Replayed(problem, start=Start.of_policy(chosen, problem)), problem, 100)
    limits = [episode.budget["macs"] / problem.cost.dense("macs") for episode in history]
    assert limits == pytest.approx(np.linspace(0.3, 0.8, 11))
    assert all(
        0.98 * limit < e.kept["macs"] <= limit for e, limit in zip(history, limits, strict=True)
    )


@pytest.mark.parametrize("right", [0, 1, 2], ids=["own", "between", "reference"])
def test_a_policy_is_trusted_as_far_as_the_network_loses_least(right: int) -> None:
    asked: list[tuple[int, ...]] = []

    def probe(widths: tuple[int, ...]) -> float:
        asked.append(widths)
        return float(len(asked) - 1 != right)

    quality = fake_problem().evaluate
    known = Sensitivity.measure(fake_units(DENSE_9), lambda widths: quality(widths)["kl"])
    problem, chosen = fake_problem(known=known, probe=probe), policy()
    start = Start.of_policy(chosen, problem)
    plan = start.plan(problem.budget)
    assert plan.widths == asked[right]
    own, between, reference = (np.array(widths) / DENSE_9 for widths in asked)
    assert asked[0] == play(chosen, problem, problem.budget).widths
    assert asked[2] == problem.reference().widths
    # Half way, but for one factor for all units, full widths and rounding.
    factors = (between / np.sqrt(own * reference))[between < 1]
    assert len(factors) > 5
    np.testing.assert_allclose(factors, factors.mean(), rtol=0.15)
    assert start.plan(problem.budget) is plan
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("trained", "said"),
    [
        ({"macs": 0.5}, None),
        ({"macs": [0.3, 0.8]}, None),
        ({"macs": 0.3}, "was trained at 30.0% of the macs, and is asked for 50.0%"),
        ({"macs": [0.6, 0.8]}, "at 60.0% to 80.0% of the macs"),
        ({"macs": 0.5, "params": 0.3}, "at 30.0% of the params, and is asked for 100.0%"),
        ({"params": [0.3, 1.0]}, "at 100.0% of the macs"),
    ],
)
def test_other_budgets_than_in_training_are_a_warning(trained: object, said: str | None) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Start.of_policy(policy(trained), fake_problem())
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == (said is not None)
    assert all(said in message for message in messages if said)


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(ConfigError, match="trained with the constraint 'sequential', not 'proj"):
        Start.of_policy(policy(constraint="sequential"), fake_problem())
    problem = fake_problem()
    plan = Start.of_keeps([0.5] * len(DENSE_9), problem)
    with pytest.raises(ConfigError, match="'random' starts from no policy or plan"):
        make_agent("random", problem, None, 0, plan)
    with pytest.raises(ConfigError, match="'ddpg' starts from a policy, not from a plan"):
        make_agent("ddpg", problem, None, 0, plan)


@pytest.mark.parametrize("name", ["expert", "cma-es"])
def test_a_plan_is_copied_onto_any_budget_and_a_search_begins_with_it(name: str) -> None:
    keeps = np.linspace(0.3, 0.9, len(DENSE_9))
    problem = fake_problem(limits={"macs": 0.4})
    start = Start.of_keeps(keeps, problem)
    (episode,) = play_agent(Replayed(problem, start=start), problem, 5)
    assert 0.39 < episode.kept["macs"] <= 0.4
    ratios = np.array(episode.executed_keep) / keeps  # one factor for all, but for rounding
    assert ratios[6:] == pytest.approx(ratios[6:].mean(), rel=0.03)
    (first,) = play_agent(make_agent(name, problem, None, 0, start), problem, 1)
    assert first.widths == episode.widths


@pytest.mark.parametrize(("name", "ensemble"), [("expert", True), ("ddpg", False)])
def test_a_search_starts_with_the_policy_s_own_plan_and_learns_from_there(
    name: str, ensemble: bool
) -> None:
    problem, chosen = fake_problem(), policy(ensemble=ensemble)
    settings = {
        "expert": ExpertConfig(warmup_episodes=2),
        "ddpg": DDPGConfig(warmup_episodes=1, gradient_steps=5),
    }
    agent = make_agent(name, problem, settings[name], 0, Start.of_policy(chosen, problem))
    begun = agent.policy
    assert begun is not None
    assert begun.hidden == (16,)  # the policy's, whatever the settings say
    observation = problem.rollout().observation
    np.testing.assert_array_equal(begun.act(observation), chosen.act(observation))
    (first,) = play_agent(agent, problem, 1)
    assert first.widths == play(chosen, problem, problem.budget).widths
    play_agent(agent, problem, 2)
    assert agent.policy is not None
    assert agent.policy.act(observation) != chosen.act(observation)


def test_a_policy_of_ddpg_s_is_a_plan_to_begin_with_for_the_expert_and_not_the_other_way() -> None:
    problem, chosen = fake_problem(), policy()
    agent = make_agent("expert", problem, None, 0, Start.of_policy(chosen, problem))
    (first,) = play_agent(agent, problem, 1)
    assert first.widths == play(chosen, problem, problem.budget).widths
    assert agent.policy is not None
    assert agent.policy.hidden == ExpertConfig().hidden
    own = Start.of_policy(agent.policy, problem)
    with pytest.raises(ConfigError, match="starts from a policy of ddpg"):
        make_agent("ddpg", problem, None, 0, own)
