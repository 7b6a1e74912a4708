"""The policy network, which learns to act as the planner does."""

from __future__ import annotations

import copy
from collections import deque

import numpy as np
import torch
from torch.nn import functional

from amc.agents.policy_network import Ensemble


class ImitationLearner:
    """An actor that imitates rollouts (expert iteration: Anthony, Tian and Barber 2017).

    Args:
        hidden: widths of the hidden layers of each of its members.
        members: networks that it consists of.
        lr: learning rate of Adam.
        decay: of the weights, with each step times ``lr`` (Loshchilov and Hutter 2019).
        memory: rollouts that it remembers; older ones were planned with a worse critic.
        seed: of its weights and its batches.
    """

    def __init__(
        self,
        hidden: tuple[int, ...],
        members: int,
        lr: float,
        decay: float,
        memory: int,
        seed: int,
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = Ensemble(hidden, members)
        self._lr, self._decay = lr, decay
        self._optimiser = self._make_optimiser()
        self._generator = torch.Generator().manual_seed(seed)
        self._observations: deque[torch.Tensor] = deque(maxlen=memory)
        self._actions: deque[torch.Tensor] = deque(maxlen=memory)
        self.loss = 0.0
        """Mean squared error of the last batch."""

    def take_over(self, actor: Ensemble) -> None:
        """Go on with a copy of ``actor``, whatever its layers."""
        self.actor = copy.deepcopy(actor)
        self._optimiser = self._make_optimiser()

    @torch.no_grad()
    def act(self, observations: np.ndarray) -> np.ndarray:
        """Actions (n,) in [-1, 1] for observations (n, features)."""
        actions: np.ndarray = self.actor(torch.from_numpy(observations))[:, 0].clamp(-1, 1).numpy()
        return actions

    def watch(self, observations: np.ndarray, actions: np.ndarray) -> None:
        """Remember a rollout: ``(units, features)`` and ``(units, 1)``."""
        self._observations.append(torch.from_numpy(observations))
        self._actions.append(torch.from_numpy(actions))

    def train(self, steps: int, batch_size: int) -> None:
        """Take ``steps`` steps, each member on batches of its own from all remembered rollouts."""
        observations, actions = torch.cat([*self._observations]), torch.cat([*self._actions])[:, 0]
        size = (self.actor.members, batch_size)
        for _ in range(steps):
            rows = torch.randint(len(actions), size, generator=self._generator)
            loss = functional.mse_loss(self.actor.actions(observations[rows]), actions[rows])
            self._optimiser.zero_grad()
            loss.backward()
            self._optimiser.step()
            self.loss = loss.item()

    def _make_optimiser(self) -> torch.optim.Optimizer:
        parameters = self.actor.parameters()
        return torch.optim.AdamW(parameters, self._lr, weight_decay=self._decay, fused=True)
