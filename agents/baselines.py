"""Searchers that learn nothing, through the agent's interface and on the same environment."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from amc.envs.pruning import Episode, PruningEnv
from amc.envs.walk import Proposal


class Uniform:
    """The plan that keeps the same fraction of every unit; one for each budget of a range."""

    policy = None

    def __init__(self, env: PruningEnv) -> None:
        self._env = env
        self._budgets = iter(env.budgets.spread())

    def ask(self, count: int) -> list[Proposal]:
        """The plans of the next ``count`` budgets."""
        return [self._env.uniform(budget) for budget in islice(self._budgets, count)]

    def tell(self, episodes: Sequence[Episode]) -> None:
        """Nothing to learn."""

    def diagnostics(self) -> dict[str, float]:
        """Nothing."""
        return {}


class RandomSearch:
    """Uniformly random actions: random plans on the budget."""

    policy = None

    def __init__(self, env: PruningEnv, seed: int) -> None:
        self._env = env
        self._generator = np.random.default_rng(seed)

    def ask(self, count: int) -> list[Proposal]:
        """``count`` random plans, each under a budget of its own where there is a range."""
        return [self._plan() for _ in range(count)]

    def _plan(self) -> Proposal:
        budget = self._env.budgets.draw(self._generator)
        actions = self._generator.uniform(-1.0, 1.0, len(self._env.units))
        return self._env.decode(actions, budget)

    def tell(self, episodes: Sequence[Episode]) -> None:
        """Nothing to learn."""

    def diagnostics(self) -> dict[str, float]:
        """Nothing."""
        return {}
