"""Searchers that learn nothing, through the agent's interface and on the same environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np

from amc.budget import Budget
from amc.envs.pruning import Episode, PruningEnv
from amc.envs.walk import Proposal


class Baseline:
    """What the searchers beside the agent have in common: no policy, and nothing to plot."""

    policy = None

    def tell(self, episodes: Sequence[Episode]) -> None:
        """Nothing to learn."""

    def diagnostics(self) -> dict[str, float]:
        """Nothing."""
        return {}


class OnePlan(Baseline):
    """A plan that is known without a search, evaluated once; one for each budget of a range."""

    def __init__(self, env: PruningEnv, plan: Callable[[Budget], Proposal]) -> None:
        self._plan = plan
        self._budgets = iter(env.budgets.spread())

    def ask(self, count: int) -> list[Proposal]:
        """The plans of the next ``count`` budgets."""
        return [self._plan(budget) for budget in islice(self._budgets, count)]


class Uniform(OnePlan):
    """The plan that keeps the same fraction of every unit."""

    def __init__(self, env: PruningEnv) -> None:
        super().__init__(env, env.uniform)


class Reference(OnePlan):
    """What is known before any plan is evaluated (:mod:`amc.envs.reference`)."""

    def __init__(self, env: PruningEnv) -> None:
        super().__init__(env, env.reference)


class RandomSearch(Baseline):
    """Uniformly random actions: random plans on the budget."""

    def __init__(self, env: PruningEnv, seed: int) -> None:
        self._env = env
        self._generator = np.random.default_rng(seed)

    def ask(self, count: int) -> list[Proposal]:
        """``count`` random plans, each under a budget of its own where there is a range."""
        return [self._draw() for _ in range(count)]

    def _draw(self) -> Proposal:
        budget = self._env.budgets.draw(self._generator)
        actions = self._generator.uniform(-1.0, 1.0, len(self._env.units))
        return self._env.decode(actions, budget)
