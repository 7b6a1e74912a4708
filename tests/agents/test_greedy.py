from __future__ import annotations

import itertools

import numpy as np
import pytest

from amc.agents.greedy import GreedySearch
from amc.envs.pruning import Episode, PruningEnv
from tests.fakes import fake_env, play

DENSE, SENSITIVITY = (8, 12, 10), (0.3, 0.02, 0.1)


def small() -> PruningEnv:
    return fake_env(DENSE, SENSITIVITY)


def optimum(env: PruningEnv) -> float:
    """The best reward of all allowed plans within the budget."""
    plans = itertools.product(*(unit.widths for unit in env.units))
    return max(-env.evaluate(plan)["kl"] for plan in plans if env.budget.met(plan))


def test_finds_the_best_plan_of_all_and_ends_by_itself() -> None:
    env = small()
    history = play(GreedySearch(env), env, 1000)
    assert len(history) < 100
    assert max(episode.reward for episode in history) == pytest.approx(optimum(env), abs=1e-12)


@pytest.mark.parametrize("count", [1, 4])
def test_no_plan_twice(count: int) -> None:
    env = small()
    agent = GreedySearch(env)
    history: list[Episode] = []
    while proposals := agent.ask(count):
        done = [env.score(proposal) for proposal in proposals]
        agent.tell(done)
        history += done
    widths = [episode.widths for episode in history]
    assert len(set(widths)) == len(widths)
    assert max(episode.reward for episode in history) == pytest.approx(optimum(env), rel=0.05)


def test_the_moves_are_those_of_the_description() -> None:
    """Shrink the first unit: worse. Grow it: better. Then the second, from there."""
    env = fake_env((64, 64, 64), (0.3, 0.02, 0.1))
    agent = GreedySearch(env)
    uniform, shrunk, grown, second = play(agent, env, 4)
    keep = np.array(uniform.executed_keep)
    assert shrunk.proposed_keep == pytest.approx(keep * [0.5, 1, 1])
    assert shrunk.reward < uniform.reward < grown.reward
    assert grown.proposed_keep == pytest.approx(np.minimum(1, keep * [2, 1, 1]))
    assert second.proposed_keep == pytest.approx(np.array(grown.executed_keep) * [1, 0.5, 1])


def test_of_moves_made_side_by_side_the_best_stays_and_the_next_best_is_tried_again() -> None:
    env = fake_env((64, 64, 64), (0.01, 0.005, 0.5))
    agent = GreedySearch(env)
    agent.tell([env.score(proposal) for proposal in agent.ask(3)])
    done = [env.score(proposal) for proposal in agent.ask(3)]
    better = [
        e for e in done if e.reward > env.score(env.decode(env.encode(env.uniform_keep()))).reward
    ]
    assert better == done[:2], "the first two units matter least"
    agent.tell(done)
    first, second = sorted(better, key=lambda episode: -episode.reward)
    shrink = np.ones(3)
    shrink[done.index(second)] = 0.5
    again, *_ = agent.ask(1)
    # The third unit's other direction was queued after it.
    candidates = [again, *agent.ask(1)]
    expected = tuple(np.array(first.executed_keep) * shrink)
    assert any(p.wishes == pytest.approx(expected) for p in candidates)
