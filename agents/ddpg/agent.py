"""DDPG on stable-baselines3, with what AMC adds to it (He et al. 2018, section 3.3)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from stable_baselines3 import DDPG
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn
from torch.nn import functional

from amc.agents.ddpg.buffer import EpisodeBuffer
from amc.agents.ddpg.noise import TruncatedNormal
from amc.agents.ddpg.settings import DDPGConfig
from amc.agents.policy import Policy, TrainedOn, Training
from amc.agents.policy_network import Ensemble
from amc.agents.warm_start import Start
from amc.cost.budget import Budget
from amc.envs.problem import PruningProblem
from amc.envs.pruning import PruningEnv
from amc.envs.rollout import Proposal
from amc.errors import ConfigError
from amc.records.episode import Episode

_ACTOR_OUTPUT_INIT = 3e-3  # Lillicrap et al. 2016, section 7: the first actions are near zero


class PruningDDPG(DDPG):
    """stable-baselines3's DDPG, its exploration, its credit and its update replaced by AMC's.

    Explores with truncated-normal noise whose spread decays by episode, credits every step with the
    episode's final reward, and regresses the critic on it: with the paper's baseline and bootstrap,
    or (our default) on the rank of the reward among all episodes.
    """

    def __init__(self, problem: PruningProblem, settings: DDPGConfig, seed: int) -> None:
        exploration, batches = np.random.default_rng(seed).spawn(2)
        units = len(problem.units)
        self.settings = settings
        self.noise = TruncatedNormal(settings.noise_std, exploration)
        self.losses: dict[str, float] = {}
        self.episodes = 0
        self._exploration = exploration
        self._baseline: float | None = None
        # stable-baselines3 seeds every global generator when it is given a seed; without one it
        # draws the initial weights from torch's, which is put back as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            super().__init__(
                "MlpPolicy",
                DummyVecEnv([lambda: PruningEnv(problem)]),
                learning_rate=settings.critic_lr,
                buffer_size=settings.buffer_episodes * units,
                batch_size=settings.batch_size,
                tau=settings.tau,
                gamma=settings.discount,
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
        return self.episodes < self.settings.warmup_episodes

    @property
    def exploration_std(self) -> float:
        """Deviation of the truncated normal in this episode."""
        learned = max(0, self.episodes - self.settings.warmup_episodes)
        decayed = self.settings.noise_std * self.settings.noise_decay**learned
        return max(decayed, self.settings.noise_floor)

    def explore(self, observations: np.ndarray) -> np.ndarray:
        """Actions (N, 1) in [-1, 1] for observations (N, features)."""
        if self.warming_up and self.settings.warmup == "uniform":
            return self._exploration.uniform(-1.0, 1.0, (len(observations), 1))
        with torch.no_grad():
            mean = self.actor(torch.from_numpy(observations)).numpy()
        self.noise.std = self.exploration_std
        return self.noise(mean)

    def learn_from(self, observations: np.ndarray, actions: np.ndarray, reward: float) -> None:
        """Store an episode's rollout, and update after the warm-up."""
        assert isinstance(self.replay_buffer, EpisodeBuffer)
        self.replay_buffer.add_episode(observations, actions, reward)
        self.episodes += 1
        if not self.warming_up:
            steps = self.settings.gradient_steps
            self.train(len(actions) if steps < 0 else steps, self.settings.batch_size)

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
    """Learns on one environment; see :class:`amc.agents.registry.Agent`.

    Raises :class:`ConfigError` for a start that is no policy's.
    """

    def __init__(
        self,
        problem: PruningProblem,
        seed: int = 0,
        settings: DDPGConfig | None = None,
        start: Start | None = None,
    ) -> None:
        settings = settings or DDPGConfig()
        self._problem = problem
        self._seed = seed
        self._start_uniform = settings.start_uniform
        self._start = start
        self._budgets = np.random.default_rng(seed).spawn(3)[2]  # the model takes the first two
        if start is not None:
            if start.policy is None:
                raise ConfigError("agent 'ddpg' starts from a policy, not from a plan; take expert")
            if isinstance(start.policy.actor, Ensemble):
                raise ConfigError("agent 'ddpg' starts from a policy of ddpg's; take expert")
            settings = settings.model_copy(update={"hidden": start.policy.hidden})
        self.model = PruningDDPG(problem, settings, seed)
        if start is not None and start.policy is not None:
            for actor in (self.model.actor, self.model.actor_target):
                actor.mu.load_state_dict(start.policy.actor.state_dict())

    def ask(self, count: int) -> list[Proposal]:
        """Roll out ``count`` times side by side, exploring, each under its own budget of a range.

        The very first plan is that of the policy to start from, or else the uniform one.
        """
        budgets = [self._problem.budgets.draw(self._budgets) for _ in range(count)]
        rollouts = [self._problem.rollout(budget) for budget in budgets]
        for _ in self._problem.units:
            actions = self.model.explore(np.stack([rollout.observation for rollout in rollouts]))
            for rollout, action in zip(rollouts, actions[:, 0], strict=True):
                rollout.decide(float(action))
        proposals = [rollout.propose() for rollout in rollouts]
        if self.model.episodes == 0 and self._start is not None:
            proposals[0] = self._start.plan(budgets[0])
        elif self.model.episodes == 0 and self._start_uniform:
            proposals[0] = self._problem.uniform(budgets[0])
        return proposals

    def tell(self, episodes: Sequence[Episode]) -> None:
        """Learn from the rollout that proposes what each episode executed."""
        for episode in episodes:
            budget = Budget(episode.budget, self._problem.cost)
            executed = self._problem.retrace(episode.widths, budget)
            # Rewards of different budgets are ranked together here: under a range, the critic has
            # to tell the budget's part in them from the plan's.
            self.model.learn_from(*executed, episode.reward)

    @property
    def policy(self) -> Policy:
        """A copy of the actor as it is now."""
        training = Training(units=len(self._problem.units), episodes=self.model.episodes)
        return Policy(
            copy.deepcopy(self.model.actor.mu),
            self._problem.constraint,
            TrainedOn(
                budget=self._problem.budgets.fractions, seed=self._seed, networks=(training,)
            ),
        )

    def diagnostics(self) -> dict[str, float]:
        """Exploration of the present episode, the losses of the last update, and, as
        Stable-Baselines3 names them, the updates so far and the (critic's) learning rate."""
        losses = {f"losses/{name}": value for name, value in self.model.losses.items()}
        return {
            "exploration/std": self.model.exploration_std,
            **losses,
            "train/n_updates": self.model._n_updates,
            "train/learning_rate": self.model.settings.critic_lr,
        }
