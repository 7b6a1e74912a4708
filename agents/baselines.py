"""Searchers that learn nothing, through the agent's interface and on the same environment."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from amc.envs.pruning import Episode, PruningEnv


class Uniform:
    """The plan that keeps the same fraction of every unit, evaluated once."""

    policy = None

    def __init__(self, env: PruningEnv) -> None:
        self._env = env

    def learn(self, episodes: int, on_episode: Callable[[Episode], None]) -> None:
        """One episode, however many are allowed: the plan is always the same."""
        if episodes > 0:
            keeps = self._env.uniform_keep()
            on_episode(play(self._env, lambda i: self._env.action_for(keeps[i])))

    def diagnostics(self) -> dict[str, float]:
        """Nothing."""
        return {}


class RandomSearch:
    """Uniformly random actions: random plans on the budget."""

    policy = None

    def __init__(self, env: PruningEnv, seed: int) -> None:
        self._env = env
        self._generator = np.random.default_rng(seed)

    def learn(self, episodes: int, on_episode: Callable[[Episode], None]) -> None:
        """Play ``episodes`` random episodes."""
        for _ in range(episodes):
            actions = self._generator.uniform(-1.0, 1.0, (len(self._env.units), 1))
            on_episode(play(self._env, actions.__getitem__))

    def diagnostics(self) -> dict[str, float]:
        """Nothing."""
        return {}


def play(env: PruningEnv, choose: Callable[[int], np.ndarray]) -> Episode:
    """One episode with the action ``choose(index of the unit)`` on each unit."""
    env.reset()
    for index in range(len(env.units)):
        *_, info = env.step(choose(index).astype(np.float32))
    return Episode.from_json(info["plan"])
