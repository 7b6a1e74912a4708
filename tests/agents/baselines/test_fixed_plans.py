from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from amc.agents.registry import make_agent
from amc.envs.problem import PruningProblem
from amc.envs.sensitivity import Sensitivity
from amc.errors import ConfigError
from amc.records.episode import Episode
from amc.registry import AGENTS
from tests.fakes import SENSITIVITY_9, FakeQuality, fake_problem, play

BASELINES = sorted(set(AGENTS.names()) - {"expert", "ddpg"})
SEEDED = ("random", "cma-es", "tpe", "gp")
SEARCHES = ("greedy", "cma-es", "tpe", "gp")


def played(
    name: str, seed: int = 0, *, problem: PruningProblem | None = None, n: int = 16
) -> list[Episode]:
    problem = problem or fake_problem()
    return play(make_agent(name, problem, None, seed), problem, n)


KNOWN = Sensitivity(np.array(SENSITIVITY_9) / np.mean(SENSITIVITY_9))


@pytest.mark.parametrize("constraint", ["projection", "sequential"])
@pytest.mark.parametrize("name", ["uniform", "reference"])
def test_one_plan_plays_once(name: str, constraint: str) -> None:
    problem = fake_problem(constraint=constraint, known=KNOWN)
    agent = make_agent(name, problem, None, 0)
    history = play(agent, problem, 50)
    keeps = {"uniform": problem.uniform_keep(), "reference": problem.reference_keep()}
    assert keeps["uniform"] != keeps["reference"]
    assert [episode.executed_keep for episode in history] == [pytest.approx(keeps[name])]
    assert agent.policy is None
    assert agent.diagnostics() == {}


@pytest.mark.parametrize("constraint", ["projection", "sequential"])
@pytest.mark.parametrize("name", BASELINES)
def test_every_plan_meets_the_budget(name: str, constraint: str) -> None:
    limits = {"macs": 0.5, "params": 0.45}
    history = played(name, problem=fake_problem(limits=limits, constraint=constraint))
    assert all(e.kept["macs"] <= 0.5 and e.kept["params"] <= 0.45 for e in history)
    if constraint == "projection":
        assert all(max(e.kept["macs"] / 0.5, e.kept["params"] / 0.45) > 0.94 for e in history)
    assert [episode.number for episode in history] == list(range(1, len(history) + 1))


@pytest.mark.parametrize("name", BASELINES)
def test_the_seed_decides_and_no_global_generator_is_touched(name: str) -> None:
    torch_before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    n = 14  # the Gaussian process is fitted from the eleventh on
    one, other, again = (tuple(e.widths for e in played(name, seed, n=n)) for seed in (1, 2, 1))
    assert one == again
    assert (one != other) == (name in SEEDED)
    assert torch.equal(torch.get_rng_state(), torch_before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_begins_with_what_is_known_and_improves_on_it(name: str) -> None:
    n = 25 if name == "gp" else 60
    history = played(name, n=n)
    (uniform,) = played("uniform")
    chance = np.median([max(e.reward for e in played("random", seed, n=n)) for seed in range(5)])
    assert history[0].widths == uniform.widths
    known = fake_problem(known=KNOWN)
    assert played(name, problem=known, n=1)[0].widths == known.reference().widths
    assert max(e.reward for e in history) > max(uniform.reward, float(chance))


@pytest.mark.parametrize("name", ["random", *SEARCHES])
def test_many_plans_at_once(name: str) -> None:
    """Any portions of the same total; what is told in one portion is learned from."""
    problem = fake_problem()
    agent = make_agent(name, problem, None, 0)
    history: list[Episode] = []
    for count in (1, 3, 16, 4):
        proposals = agent.ask(count)
        assert 0 < len(proposals) <= count
        if name != "greedy":  # has no more moves than units
            assert len(proposals) == count
        done = [problem.score(proposal) for proposal in proposals]
        agent.tell(done)
        history += done
    if name in SEARCHES:
        assert max(e.reward for e in history) > history[0].reward


def test_uniform_plans_are_spread_over_a_range() -> None:
    problem = fake_problem(limits={"macs": (0.3, 0.8)})
    agent = make_agent("uniform", problem, None, 0)
    history = play(agent, problem, 50)
    shares = np.linspace(0.3, 0.8, 11)
    assert [e.budget["macs"] / problem.cost.dense("macs") for e in history] == pytest.approx(shares)
    assert all(
        0.98 * share < e.kept["macs"] <= share for e, share in zip(history, shares, strict=True)
    )
    assert all(max(e.executed_keep) - min(e.executed_keep) < 0.17 for e in history)


def test_random_budgets_do_not_depend_on_how_many_are_asked_for_at_once() -> None:
    def widths(counts: list[int]) -> list[tuple[int, ...]]:
        problem = fake_problem(limits={"macs": (0.3, 0.8)})
        agent = make_agent("random", problem, None, 0)
        return [proposal.widths for count in counts for proposal in agent.ask(count)]

    assert widths([1] * 12) == widths([5, 7])
    kept = [fake_problem().cost.macs(w) / fake_problem().cost.dense("macs") for w in widths([40])]
    assert 0.28 < min(kept) < 0.4
    assert 0.7 < max(kept) <= 0.8


def test_the_evaluator_is_called_once_an_episode() -> None:
    quality = FakeQuality((8, 8), (0.1, 0.2))
    played("random", problem=fake_problem((8, 8), (), evaluate=quality), n=7)
    assert quality.calls == 7


def test_unknown_agent() -> None:
    with pytest.raises(ConfigError, match="'sac' is unknown; choose from expert, ddpg, uniform, "):
        make_agent("sac", fake_problem(), None, 0)


@pytest.mark.parametrize(
    ("name", "module", "library"),
    [
        ("cma-es", "cma_es", "cmaes"),
        ("tpe", "bayesian", "optuna"),
        ("gp", "bayesian", "scipy"),
    ],
)
def test_a_missing_extra_is_named(
    name: str, module: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"amc.agents.baselines.{module}", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"needs? {library}: pip install amc-agent\[compare\]"):
        make_agent(name, fake_problem(), None, 0)
