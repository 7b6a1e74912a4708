"""Searchers that learn nothing, through the agent's interface and on the same environment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
    """A plan that is known without a search, evaluated once."""

    def __init__(self, env: PruningEnv, keeps: Sequence[float]) -> None:
        self._env = env
        self._left = [keeps]

    def ask(self, count: int) -> list[Proposal]:  # noqa: ARG002
        """The plan, the first time."""
        left, self._left = self._left, []
        return [self._env.decode(self._env.encode(keeps)) for keeps in left]


class Uniform(OnePlan):
    """The plan that keeps the same fraction of every unit."""

    def __init__(self, env: PruningEnv) -> None:
        super().__init__(env, env.uniform_keep())


class RandomSearch(Baseline):
    """Uniformly random actions: random plans on the budget."""

    def __init__(self, env: PruningEnv, seed: int) -> None:
        self._env = env
        self._generator = np.random.default_rng(seed)

    def ask(self, count: int) -> list[Proposal]:
        """``count`` random plans."""
        actions = self._generator.uniform(-1.0, 1.0, (count, len(self._env.units)))
        return [self._env.decode(row) for row in actions]
