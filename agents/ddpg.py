"""DDPG on stable-baselines3, with what AMC adds to it (He et al. 2018, section 3.3)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from stable_baselines3 import DDPG
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn
from torch.nn import functional

from amc.agents.buffer import EpisodeBuffer
from amc.agents.noise import TruncatedNormal
from amc.agents.policy import Policy
from amc.config import AgentConfig
from amc.envs.pruning import Episode, PruningEnv

_ACTOR_OUTPUT_INIT = 3e-3  # Lillicrap et al. 2016, section 7: the first actions are near zero


class PruningDDPG(DDPG):
    """stable-baselines3's DDPG, its exploration, its credit and its update replaced by AMC's.

    Explores with truncated-normal noise whose spread decays by episode, credits every step with the
    episode's final reward, and regresses the critic on it: with the paper's baseline and bootstrap,
    or (our default) on the rank of the reward among all episodes.
    """

    def __init__(self, env: PruningEnv, settings: AgentConfig, seed: int) -> None:
        exploration, batches = np.random.default_rng(seed).spawn(2)
        units = len(env.units)
        self.settings = settings
        self.pruning_env = env
        self.noise = TruncatedNormal(settings.noise_std, exploration)
        self.losses: dict[str, float] = {}
        self._exploration = exploration
        self._baseline: float | None = None
        # stable-baselines3 seeds every global generator when it is given a seed; without one it
        # draws the initial weights from torch's, which is put back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__(
                "MlpPolicy",
                DummyVecEnv([lambda: env]),
                learning_rate=settings.critic_lr,
                buffer_size=settings.buffer_episodes * units,
                # The comparison with the steps done is strict: learn at the warm-up's own end.
                learning_starts=settings.warmup_episodes * units - 1,
                batch_size=settings.batch_size,
                tau=settings.tau,
                gamma=settings.discount,
                train_freq=(1, "episode"),
                gradient_steps=settings.gradient_steps,
                replay_buffer_class=EpisodeBuffer,
                replay_buffer_kwargs={
                    "generator": batches,
                    "ranked": settings.shaping == "rank",
                },
                policy_kwargs={
                    "net_arch": list(settings.hidden),
                    "optimizer_kwargs": {"fused": True},
                },
                device="cpu",
            )
            output = self.actor.mu[-2]
            assert isinstance(output, nn.Linear)
            for parameter in output.parameters():
                nn.init.uniform_(parameter, -_ACTOR_OUTPUT_INIT, _ACTOR_OUTPUT_INIT)
        self.actor_target.load_state_dict(self.actor.state_dict())
        for group in self.actor.optimizer.param_groups:
            group["lr"] = settings.actor_lr
        # Its default logger would make a folder in the system's temporary directory.
        self.set_logger(Logger(folder=None, output_formats=[]))

    @property
    def warming_up(self) -> bool:
        """Whether the actor has not learned yet."""
        return self._episode_num < self.settings.warmup_episodes

    @property
    def exploration_std(self) -> float:
        """Deviation of the truncated normal in this episode."""
        learned = max(0, self._episode_num - self.settings.warmup_episodes)
        decayed = self.settings.noise_std * self.settings.noise_decay**learned
        return max(decayed, self.settings.noise_floor)

    def _sample_action(
        self,
        learning_starts: int,  # noqa: ARG002
        action_noise: ActionNoise | None = None,  # noqa: ARG002
        n_envs: int = 1,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The action to take, and the same to store: (1, 1) in [-1, 1]."""
        if self._episode_num == 0 and self.settings.start_uniform:
            keep = self.pruning_env.uniform_keep()[self.num_timesteps % len(self.pruning_env.units)]
            action = self.pruning_env.action_for(keep)[None]
        elif self.warming_up and self.settings.warmup == "uniform":
            action = self._exploration.uniform(-1.0, 1.0, (n_envs, 1)).astype(np.float32)
        else:
            assert isinstance(self._last_obs, np.ndarray)
            with torch.no_grad():
                mean = self.actor(torch.from_numpy(self._last_obs)).numpy()
            self.noise.std = self.exploration_std
            action = self.noise(mean)
        return action, action

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """Update critic and actor ``gradient_steps`` times (Lillicrap et al. 2016, Algorithm 1)."""
        assert self.replay_buffer is not None
        actor_parameters = list(self.actor.parameters())
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size)

            # Critic: least squares on the target.
            target = self.critic_targets(batch)
            (value,) = self.critic(batch.observations, batch.actions)
            critic_loss = functional.mse_loss(value, target)
            self.critic.optimizer.zero_grad()
            critic_loss.backward()
            self.critic.optimizer.step()

            # Actor: climb the critic. Only the actor's gradients are computed.
            proposed = self.actor(batch.observations)
            actor_loss = -self.critic.q1_forward(batch.observations, proposed).mean()
            gradients = torch.autograd.grad(actor_loss, actor_parameters)
            for parameter, gradient in zip(actor_parameters, gradients, strict=True):
                parameter.grad = gradient
            self.actor.optimizer.step()

            if self.settings.bootstrap:  # otherwise nothing reads the target networks
                polyak_update(self.critic.parameters(), self.critic_target.parameters(), self.tau)
                polyak_update(self.actor.parameters(), self.actor_target.parameters(), self.tau)
        self._n_updates += gradient_steps
        self.losses = {"actor": actor_loss.item(), "critic": critic_loss.item()}

    @torch.no_grad()
    def critic_targets(self, batch: ReplayBufferSamples) -> Tensor:
        """(batch, 1) regression targets.

        R - b + discount * Q'(s', mu'(s')) with the paper's bootstrap (0 after the last step), and
        R - b without it; R is the credited reward, b the moving average of the batches' mean
        reward. Ranked rewards are centred already: b = 0.
        """
        target = batch.rewards
        if self.settings.shaping == "baseline":
            mean = batch.rewards.mean().item()
            momentum = self.settings.baseline_momentum
            old = mean if self._baseline is None else self._baseline
            self._baseline = momentum * old + (1 - momentum) * mean
            target = target - self._baseline
        if self.settings.bootstrap:
            next_actions = self.actor_target(batch.next_observations)
            next_values = self.critic_target.q1_forward(batch.next_observations, next_actions)
            target = target + (1 - batch.dones) * self.gamma * next_values
        return target


class DDPGAgent:
    """Learns on one environment; see :class:`amc.agents.Agent`."""

    def __init__(self, env: PruningEnv, settings: AgentConfig, seed: int) -> None:
        self._env = env
        self._seed = seed
        self.model = PruningDDPG(env, settings, seed)

    def learn(self, episodes: int, on_episode: Callable[[Episode], None]) -> None:
        """Play and learn from ``episodes`` episodes; a second call goes on where it stopped."""
        steps = episodes * len(self._env.units)
        self.model.learn(steps, callback=_OnEpisode(on_episode), reset_num_timesteps=False)

    @property
    def policy(self) -> Policy:
        """A copy of the actor as it is now."""
        return Policy(
            copy.deepcopy(self.model.actor.mu),
            self._env.constraint,
            {
                "budget": {q: self._env.budget.fraction(q) for q in self._env.budget.limits},
                "units": len(self._env.units),
                "episodes": self.model._episode_num,
                "seed": self._seed,
            },
        )

    def diagnostics(self) -> dict[str, float]:
        """Exploration of the present episode, and the losses of the last update."""
        losses = {f"losses/{name}": value for name, value in self.model.losses.items()}
        return {"exploration/std": self.model.exploration_std, **losses}


class _OnEpisode(BaseCallback):
    """Hands each finished episode on."""

    def __init__(self, on_episode: Callable[[Episode], None]) -> None:
        super().__init__()
        self._on_episode = on_episode

    def _on_step(self) -> bool:
        info: dict[str, Any] = self.locals["infos"][0]
        if "plan" in info:
            self._on_episode(Episode.from_json(info["plan"]))
        return True
