"""The replay buffer: whole episodes, credited with how they ended."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize


class EpisodeBuffer(ReplayBuffer):
    """Whole episodes, every step with the final reward.

    Crediting the final reward to each transition is the paper's (He et al. 2018, section 3.3: the
    reward of an episode is the same for all its layers). Storing the rollout that proposes what was
    executed
    (:func:`amc.envs.rollout.retrace`) in the place of the proposed one is ours.

    Args (beyond the base class's):
        generator: draws the batches, in the place of NumPy's global one.
        ranked: give out normal scores of the rewards (:func:`normal_scores`) over all stored
            episodes, in the place of the rewards.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        *,
        generator: np.random.Generator,
        ranked: bool = False,
    ) -> None:
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            optimize_memory_usage,
            handle_timeout_termination=False,
        )
        self._generator = generator
        self._ranked = ranked
        self.credit = self.rewards
        """(buffer size, 1) what :meth:`sample` gives out as rewards."""

    def add_episode(self, observations: np.ndarray, actions: np.ndarray, reward: float) -> None:
        """Store a rollout: ``(units + 1, features)``, ``(units, 1)``, and its plan's reward."""
        steps = len(actions)
        for t in range(steps):
            done = np.array([t == steps - 1])
            credited = np.array([reward])
            self.add(observations[t], observations[t + 1], actions[t], credited, done, [{}])
        if self._ranked:
            self.credit = normal_scores(self.rewards[: self.size()])

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:  # noqa: ARG002
        """Transitions drawn uniformly, with replacement."""
        rows = self._generator.integers(self.size(), size=batch_size)
        fields = (
            self.observations[rows, 0],
            self.actions[rows, 0],
            self.next_observations[rows, 0],
            self.dones[rows],
            self.credit[rows],
        )
        return ReplayBufferSamples(*(torch.from_numpy(field) for field in fields))


def normal_scores(values: np.ndarray) -> np.ndarray:
    """The standard normal quantiles of the values' ranks; ties share their mean rank.

    Whatever the scale of a reward and however bad its worst plans, the result is spread like a
    standard normal (rank-based fitness shaping, as in evolution strategies). Float32, same shape.
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    above = np.cumsum(counts)
    quantiles = (above - counts / 2) / values.size
    scores = np.array([NormalDist().inv_cdf(float(q)) for q in quantiles], dtype=np.float32)
    return scores[inverse].reshape(values.shape)
