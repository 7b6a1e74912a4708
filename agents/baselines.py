"""Searchers that learn nothing, through the agent's interface and on the same environment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amc.envs.pruning import Episode, PruningEnv
from amc.envs.walk import Proposal


class Uniform:
    """The plan that keeps the same fraction of every unit, evaluated once."""

    policy = None

    def __init__(self, env: PruningEnv) -> None:
        self._env = env
        self._asked = False

    def ask(self, count: int) -> list[Proposal]:  # noqa: ARG002
        """The plan, the first time."""
        if self._asked:
            return []
        self._asked = True
        return [self._env.decode(self._env.encode(self._env.uniform_keep()))]

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
        """``count`` random plans."""
        actions = self._generator.uniform(-1.0, 1.0, (count, len(self._env.units)))
        return [self._env.decode(row) for row in actions]

    def tell(self, episodes: Sequence[Episode]) -> None:
        """Nothing to learn."""

    def diagnostics(self) -> dict[str, float]:
        """Nothing."""
        return {}
