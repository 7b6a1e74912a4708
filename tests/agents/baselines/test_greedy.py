from __future__ import annotations

import itertools

import numpy as np
import pytest

from amc.agents.baselines.greedy import GreedySearch
from amc.envs.problem import PruningProblem
from amc.records.episode import Episode
from tests.fakes import fake_problem, play

DENSE, SENSITIVITY = (8, 12, 10), (0.3, 0.02, 0.1)


def small() -> PruningProblem:
    return fake_problem(DENSE, SENSITIVITY)


def optimum(problem: PruningProblem) -> float:
    """The best reward of all allowed plans within the budget."""
    plans = itertools.product(*(unit.widths for unit in problem.units))
    return max(-problem.evaluate(plan)["kl"] for plan in plans if problem.budget.met(plan))


def test_finds_the_best_plan_of_all_and_ends_by_itself() -> None:
    problem = small()
    history = play(GreedySearch(problem), problem, 1000)
    assert len(history) < 100
    assert max(episode.reward for episode in history) == pytest.approx(optimum(problem), abs=1e-12)


@pytest.mark.parametrize("count", [1, 4])
def test_no_plan_twice(count: int) -> None:
    problem = small()
    agent = GreedySearch(problem)
    history: list[Episode] = []
    while proposals := agent.ask(count):
        done = [problem.score(proposal) for proposal in proposals]
        agent.tell(done)
        history += done
    widths = [episode.widths for episode in history]
    assert len(set(widths)) == len(widths)
    assert max(episode.reward for episode in history) == pytest.approx(optimum(problem), rel=0.05)


def test_the_moves_are_those_of_the_description() -> None:
    """Shrink the first unit: worse. Grow it: better. Then the second, from there."""
    problem = fake_problem((64, 64, 64), (0.3, 0.02, 0.1))
    agent = GreedySearch(problem)
    uniform, shrunk, grown, second = play(agent, problem, 4)
    keep = np.array(uniform.executed_keep)
    assert shrunk.proposed_keep == pytest.approx(keep * [0.5, 1, 1])
    assert shrunk.reward < uniform.reward < grown.reward
    assert grown.proposed_keep == pytest.approx(np.minimum(1, keep * [2, 1, 1]))
    assert second.proposed_keep == pytest.approx(np.array(grown.executed_keep) * [1, 0.5, 1])


def test_of_moves_made_side_by_side_the_best_stays_and_the_next_best_is_tried_again() -> None:
    problem = fake_problem((64, 64, 64), (0.01, 0.005, 0.5))
    agent = GreedySearch(problem)
    agent.tell([problem.score(proposal) for proposal in agent.ask(3)])
    done = [problem.score(proposal) for proposal in agent.ask(3)]
    better = [
        e
        for e in done
        if e.reward > problem.score(problem.decode(problem.encode(problem.uniform_keep()))).reward
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
