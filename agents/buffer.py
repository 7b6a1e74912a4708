"""The replay buffer: whole episodes, credited with how they ended."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize


class EpisodeBuffer(ReplayBuffer):
    """Rewrites an episode when it ends: as it was executed, every step with the final reward.

    Crediting the final reward to each transition is the paper's (He et al. 2018, section 3.3: the
    reward of an episode is the same for all its layers). Storing the executed walk of
    :class:`~amc.envs.pruning.PruningEnv` in the place of the proposed one is ours.

    ``generator`` draws the batches, instead of NumPy's global one.
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
        self._start = 0

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one transition; at the last one of an episode, rewrite all of them."""
        last = self.pos
        super().add(obs, next_obs, action, reward, done, infos)
        if not done[0]:
            return
        executed = infos[0]["executed"]
        count = len(executed["actions"])
        rows = np.arange(last - count + 1, last + 1) % self.buffer_size
        self.observations[rows, 0] = executed["observations"][:-1]
        self.next_observations[rows, 0] = executed["observations"][1:]
        self.actions[rows, 0] = executed["actions"]
        self.rewards[rows, 0] = reward[0]

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:  # noqa: ARG002
        """Transitions drawn uniformly, with replacement."""
        rows = self._generator.integers(self.size(), size=batch_size)
        fields = (
            self.observations[rows, 0],
            self.actions[rows, 0],
            self.next_observations[rows, 0],
            self.dones[rows],
            self.rewards[rows],
        )
        return ReplayBufferSamples(*(torch.from_numpy(field) for field in fields))
