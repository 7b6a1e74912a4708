"""The main path on a network small enough that every plan can be tried."""

import itertools
import json

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from amc.agents.ddpg.settings import DDPGConfig
from amc.agents.warm_start import play
from amc.config import SearchConfig
from amc.cost.table import CostTable
from amc.envs.make import make_problem
from amc.errors import BudgetError, ConfigError, EvaluationError, RunError
from amc.pipeline.replay import replay
from amc.pipeline.search import search
from amc.pruning.apply import apply_plan
from amc.pruning.find_units import find_units
from amc.pruning.plan import Plan
from amc.pruning.plan_evaluator import PlanEvaluator
from amc.records.pareto_front import Front
from amc.records.run_folder import RunFolder
from amc.task import Task
from tests.tiny import distance_task


def tiny_task(break_at=None, error=None):
    """Three convolutions; ``error`` is raised at the evaluation number ``break_at``."""
    calls = itertools.count(1)

    def before():
        if next(calls) == break_at:
            raise error

    return distance_task(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(5, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
        before=before,
    )


QUICK = {"ddpg": DDPGConfig(hidden=(64, 64), actor_lr=5e-4, gradient_steps=30)}


def comparable(episode):
    return {k: v for k, v in episode.to_json().items() if k != "seconds"}


def brute_force(task, budget_macs):
    units = find_units(task.model, task.example_inputs, min_keep=0.1)
    cost = CostTable(units)
    choices = itertools.product(*(unit.widths for unit in units))
    quality = PlanEvaluator(task, units)
    return sorted(quality(widths)["kl"] for widths in choices if cost.macs(widths) <= budget_macs)


def test_search_comes_close_to_the_true_optimum_and_writes_it(tmp_path):
    task = tiny_task()
    result = search(
        task, "flops=0.5", episodes=60, seed=0, run=tmp_path / "run", agent_settings=QUICK
    )
    dense_macs = result.plan.dense_costs["macs"]
    ranked = brute_force(task, dense_macs / 2)
    assert -result.best.reward <= ranked[max(1, len(ranked) // 20)]  # among the best 5%

    folder = RunFolder.open(tmp_path / "run")
    lines = [json.loads(line) for line in folder.episodes.read_text().splitlines()]
    assert len(lines) == len(result.history) == 60
    assert all(line["costs"]["macs"] <= dense_macs / 2 for line in lines)
    assert max(line["reward"] for line in lines) == result.best.reward
    plan = Plan.load(folder.plan)
    assert plan == result.plan
    small = apply_plan(plan, task).model
    with FlopCounterMode(display=False) as counter:
        small(task.example_inputs)
    assert counter.get_total_flops() // 2 == plan.costs["macs"]
    assert sum(p.numel() for p in small.parameters()) == plan.costs["params"]
    assert folder.load_config().budget == {"macs": 0.5}
    assert folder.load_config().importance == "contribution"  # the default, without a loss
    assert (folder.policy / "actor.safetensors").is_file()


@pytest.mark.parametrize("agent", ["expert", "ddpg", "random"])
def test_the_same_seed_gives_the_same_episodes(agent):
    runs = [
        search(tiny_task(), "flops=0.5", agent=agent, episodes=20, seed=seed, agent_settings=QUICK)
        for seed in (3, 3, 4)
    ]
    first, second, other = ([comparable(e) for e in run.history] for run in runs)
    assert first == second
    assert first != other


def test_uniform_is_one_plan():
    result = search(tiny_task(), "flops=0.5", agent="uniform", episodes=20, seed=0)
    assert len(result.history) == 1


def test_interruption_keeps_the_best_so_far(tmp_path):
    whole = search(tiny_task(), "flops=0.5", agent="random", episodes=6, seed=0)
    task = tiny_task(break_at=7, error=KeyboardInterrupt())
    stopped = search(task, "flops=0.5", agent="random", episodes=50, seed=0, run=tmp_path / "run")
    assert stopped.interrupted
    done = [comparable(e) for e in stopped.history]
    assert done[:6] == [comparable(e) for e in whole.history]
    assert len(done) >= 6
    assert Plan.load(tmp_path / "run" / "plan.json").costs["macs"] == stopped.best.costs["macs"]


def test_interruption_before_the_first_plan_is_an_interruption():
    with pytest.raises(KeyboardInterrupt):
        search(tiny_task(break_at=1, error=KeyboardInterrupt()), "flops=0.5", episodes=5)


def test_a_quality_that_is_not_a_number_names_the_plan():
    task = tiny_task()
    broken = Task(task.model, task.example_inputs, lambda _: {"kl": float("nan"), "accuracy": 0.0})
    with pytest.raises(EvaluationError, match="widths"):
        search(broken, "flops=0.5", episodes=3)


def test_a_taken_folder_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="not empty"):
        search(tiny_task(), "flops=0.5", episodes=1, run=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("budget", "settings", "error", "words"),
    [
        ("flops=0.001", {}, BudgetError, "least achievable"),
        ("flops=0.5", {"epizodes": 3}, ConfigError, "epizodes"),
        ("flops=0.5", {"preset": "amc"}, ConfigError, "amc-paper"),
        ("flops=0.5", {"importance": "magic"}, ConfigError, "contribution"),
        (None, {}, ConfigError, "give a budget"),
    ],
)
def test_bad_settings_say_the_remedy(budget, settings, error, words):
    with pytest.raises(error, match=words):
        search(tiny_task(), budget, **settings)


@pytest.mark.parametrize("agent", ["ddpg", "random", "uniform"])
def test_a_range_gives_a_front_whose_plans_can_be_cut(tmp_path, agent):
    task = tiny_task()
    result = search(
        task,
        "flops=0.3:0.8",
        agent=agent,
        episodes=30,
        seed=0,
        run=tmp_path / "run",
        agent_settings=QUICK,
    )
    assert len(result.history) == (11 if agent == "uniform" else 30)
    dense = result.plan.dense_costs["macs"]
    limits = [episode.budget["macs"] / dense for episode in result.history]
    assert 0.3 <= min(limits) < 0.4
    assert 0.7 < max(limits) <= 0.8
    assert all(e.kept["macs"] <= limit for e, limit in zip(result.history, limits, strict=True))
    plans = result.front.plans
    assert len(plans) >= 4
    for cheap, dear in itertools.pairwise(plans):
        assert cheap.costs["macs"] < dear.costs["macs"]
        assert cheap.quality["kl"] > dear.quality["kl"]
    for episode in result.history:  # nothing recorded beats what the front has within its cost
        assert (
            result.front.within({"macs": episode.costs["macs"]}).quality["kl"]
            <= episode.quality["kl"]
        )
    assert result.front.dense_quality["kl"] == pytest.approx(0, abs=1e-9)
    middle = result.front.within({"macs": 0.55})
    assert result.plan == middle == Plan.load(tmp_path / "run" / "plan.json")
    assert Front.load(tmp_path / "run" / "front.json") == result.front
    small = apply_plan(plans[1], task).model
    with FlopCounterMode(display=False) as counter:
        small(task.example_inputs)
    assert counter.get_total_flops() // 2 == plans[1].costs["macs"]


def test_several_bounds_are_all_met_and_the_scarcest_is_spent():
    wide = wider_task()
    limits = {"macs": 0.4, "params": 0.4}
    result = search(wide, "flops=0.4 params=0.4", agent="random", episodes=12, seed=0)
    for episode in result.history:
        spent = [episode.kept["macs"] / limits["macs"], episode.kept["params"] / limits["params"]]
        assert 0.995 <= max(spent) <= 1
    binding = {e.kept["macs"] > e.kept["params"] for e in result.history}
    assert binding == {True, False}  # each is the scarcest for some


def wider_task():
    generator = torch.Generator().manual_seed(0)
    widths = (3, 16, 24, 32, 48, 64)
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 3, 1 + (outputs == 32), 1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 200))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.1
    inputs = torch.randn(1, 3, 16, 16, generator=generator)
    return Task(model.eval(), inputs, lambda _: {"kl": 0.0, "accuracy": 0.5})


def test_a_policy_is_replayed_on_another_network(tmp_path):
    trained = search(
        tiny_task(), "flops=0.3:0.8", episodes=12, run=tmp_path / "run", agent_settings=QUICK
    )
    described = json.loads((tmp_path / "run" / "policy" / "policy.json").read_text())
    assert described["trained_on"]["budget"]["macs"] == pytest.approx([0.3, 0.8])
    other = wider_task()
    for source in (tmp_path / "run", tmp_path / "run" / "policy"):
        result = replay(source, other, "flops=0.42")
        (episode,) = result.history
        assert result.plan.costs["macs"] == episode.costs["macs"]
        assert 0.41 < episode.kept["macs"] <= 0.42
    expected = play(trained.policy, make_problem(other, result_config()), None)
    assert episode.widths == expected.widths
    with pytest.warns(UserWarning, match=r"30.0% to 80.0% of the macs, and is asked for 20.0%"):
        replay(tmp_path / "run", other, "flops=0.2")
    begun = replay(trained.policy, other, "flops=0.42", episodes=2)
    assert begun.history[0].widths == episode.widths
    with pytest.raises(ConfigError, match="a search without episodes needs a policy or a plan"):
        search(other, "flops=0.42", episodes=0)


def result_config():
    return SearchConfig(budget={"macs": 0.42})


def least_that_holds(task, accuracy, quantity):
    units = find_units(task.model, task.example_inputs, min_keep=0.1)
    cost, quality = CostTable(units), PlanEvaluator(task, units)
    choices = itertools.product(*(unit.widths for unit in units))
    return min(cost.function(quantity)(w) for w in choices if quality(w)["accuracy"] >= accuracy)


@pytest.mark.parametrize("agent", ["ddpg", "random", "uniform"])
@pytest.mark.parametrize("quantity", ["macs", "params"])
def test_the_cheapest_network_of_some_accuracy(agent, quantity):
    task = tiny_task()
    result = search(
        task,
        min_accuracy=0.97,
        minimise=quantity,
        agent=agent,
        episodes=60,
        seed=0,
        agent_settings=QUICK,
    )
    least = least_that_holds(task, 0.97, quantity)
    held = [e for e in result.history if e.quality["accuracy"] >= 0.97]
    assert 0 < len(held) < len(result.history)
    found = result.plan.costs[quantity]
    assert result.plan.quality["accuracy"] >= 0.97
    assert found == min(e.costs[quantity] for e in held)
    dense = result.plan.dense_costs[quantity]
    assert least <= found < dense
    if agent != "uniform":
        assert found - least < 0.5 * (dense - least)
    bounded = search(task, "flops=0.7", min_accuracy=0.8, agent=agent, episodes=10)
    assert all(e.kept["macs"] <= 0.7 for e in bounded.history)


def test_a_floor_that_the_dense_network_does_not_hold_and_one_that_no_plan_does():
    task = tiny_task()
    with pytest.raises(ConfigError, match=r"min_accuracy 0.9: the dense .* has 0.5000 on search"):
        search(wider_task(), min_accuracy=0.9, episodes=3)
    result = search(task, "flops=0.3", min_accuracy=0.999, agent="random", episodes=10)
    assert result.best.quality["accuracy"] == max(e.quality["accuracy"] for e in result.history)
    assert result.best.reward == pytest.approx(result.best.quality["accuracy"] - 0.999)


def test_without_a_budget_error_is_weighed_against_cost():
    result = search(tiny_task(), reward="amc-flops", agent="random", episodes=5, seed=0)
    for episode in result.history:
        expected = (
            -(1 - episode.quality["accuracy"])
            * torch.log(torch.tensor(episode.costs["macs"])).item()
        )
        assert episode.reward == pytest.approx(expected, rel=1e-5)
