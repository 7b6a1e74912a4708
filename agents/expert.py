"""Expert iteration: a planner improves what the actor proposes, the actor learns from the planner.

One round is one episode:

1. the **actor** walks over the units, and says how much of each it would keep;
2. the **planner** improves this proposal, and the best plans so far, by the **critic**'s prediction
   (:class:`~amc.agents.critic.PlanCritic`: mean + optimism · deviation), at no evaluation;
3. the plan that comes out is evaluated, and the critic learns what it is worth;
4. the actor learns to walk as the planner now thinks best.

In the terms of Anthony, Tian and Barber (2017) the planner is the expert and the actor the
apprentice; in those of actor-critic methods it is an actor whose critic values the whole joint
action of an episode, because that is what the reward depends on.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from amc.agents.actor import Ensemble
from amc.agents.apprentice import Apprentice
from amc.agents.critic import LEAST_LOSS, PlanCritic
from amc.agents.planner import Planner
from amc.agents.policy import Policy, TrainedOn, Training
from amc.agents.replay import Start
from amc.errors import ConfigError

if TYPE_CHECKING:
    from amc.budget import Budget
    from amc.config import ExpertConfig
    from amc.envs.pruning import Episode, PruningEnv
    from amc.envs.walk import Proposal

_STARTS = 8
_NEAR = 0.1
_BISECTIONS = 6


class ExpertIteration:
    """Learns on one environment; see :class:`amc.agents.Agent`.

    The first plan is that of the ``start``, half of the warm-up stays close to it, and the actor is
    the policy's, if it has one; without a start this is the reference plan, where the network's
    sensitivity is known. ``apprentice`` is the actor where it is shared with searches on other
    networks. Raises :class:`ConfigError` where the environment does not project.
    """

    def __init__(
        self,
        env: PruningEnv,
        settings: ExpertConfig,
        seed: int,
        start: Start | None = None,
        apprentice: Apprentice | None = None,
    ) -> None:
        if env.constraint != "projection":
            raise ConfigError(
                f"agent 'expert' plans on the projection, not under constraint {env.constraint!r}: "
                "choose --constraint projection, or --agent ddpg"
            )
        if start is None and env.sensitivity is not None:
            start = Start(env.reference)
        self._env, self._settings, self._seed, self._start = env, settings, seed, start
        self._exploration, planning, lessons = np.random.default_rng(seed).spawn(3)
        # Who looks for the cheapest network that is good enough stays about one budget, too.
        ranged = len(env.budgets.spread(2)) > 1 and env.reward.target_loss is None
        self._optimism = settings.range_optimism if ranged else settings.optimism
        memory = settings.range_memory if ranged else settings.memory
        self._steps = settings.range_gradient_steps if ranged else settings.gradient_steps
        self._critic = PlanCritic()
        self._planner = Planner(env, planning)
        self._apprentice = apprentice or make_apprentice(settings, memory, seed, start)
        anywhere = [env.budgets.draw(lessons) for _ in range(memory // 2)]
        self._syllabus = itertools.cycle([*env.budgets.spread(memory - len(anywhere)), *anywhere])
        self._episodes: list[Episode] = []
        self._asked = 0
        self._diagnostics: dict[str, float] = {}

    def ask(self, count: int) -> list[Proposal]:
        """Plans, each under a budget of its own where there is a range.

        The start's plan, the uniform one, some around either, then planned ones.
        """
        proposals: list[Proposal] = []
        for _ in range(count):
            budget = self._env.budgets.draw(self._exploration)
            if len(self._episodes) < self._settings.warmup_episodes:
                proposals.append(self._begin(budget))
                continue
            if self._env.reward.target_loss is not None:
                budget = self._cheapest(self._env.reward.target_loss)
            proposals.append(self._planned(budget, proposals))
        return proposals

    def tell(self, episodes: Sequence[Episode]) -> None:
        """Fit the critic to all episodes, plan with it, and let the actor learn from the plan."""
        if len(self._episodes) >= self._settings.warmup_episodes:
            self._examine(episodes)
        self._episodes += episodes
        if len(self._episodes) < self._settings.warmup_episodes:
            return
        self._fit()
        budget = next(self._syllabus)
        widths, _ = self._plan(budget, optimism=0.0)
        observations, actions = self._env.retrace(widths[0], budget)
        self._apprentice.watch(observations[:-1], actions)
        self._apprentice.train(self._steps, self._settings.batch_size)

    def _examine(self, episodes: Sequence[Episode]) -> None:
        """How wrong the critic was about plans that it has not learned from, and how uncertain."""
        mean, std = self._critic.predict(self._keeps([episode.widths for episode in episodes]))
        worth = -np.log(np.maximum([self._loss(episode) for episode in episodes], LEAST_LOSS))
        self._diagnostics |= {
            "losses/critic": float(np.abs(mean - worth).mean()),
            "exploration/critic_std": float(std.mean()),
        }

    def _begin(self, budget: Budget) -> Proposal:
        number, self._asked = self._asked, self._asked + 1
        # A start may mislead: every other plan knows nothing of it.
        near = self._start is not None and number % 2 == 0
        std = self._settings.start_std if near else self._settings.noise_std
        centre = self._begun(budget) if near else self._env.encode(self._env.uniform_keep(budget))
        if number < (2 if self._start else 1):
            std = 0.0
        noise = std * self._exploration.standard_normal(len(centre))
        return self._env.decode(np.clip(centre + noise, -1.0, 1.0), budget)

    def _planned(self, budget: Budget, pending: Sequence[Proposal]) -> Proposal:
        """The most promising new plan, if the pending ones turn out as the critic thinks."""
        if pending:
            self._fit([proposal.widths for proposal in pending])
        known = {e.widths for e in self._episodes} | {p.widths for p in pending}
        plans, actions = self._plan(budget, self._optimism)
        new = next((i for i, widths in enumerate(plans) if widths not in known), 0)
        return self._env.decode(actions[new], budget)

    def _cheapest(self, target_loss: float) -> Budget:
        """The lowest budget of the range at which a plan should reach ``target_loss``."""
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            budget = self._env.budgets.at(middle)
            widths, _ = self._plan(budget, optimism=0.0)
            worth, _ = self._critic.predict(self._keeps(widths[:1]))
            low, high = (low, middle) if worth[0] >= -math.log(target_loss) else (middle, high)
        return self._env.budgets.at(high)

    def _plan(self, budget: Budget, optimism: float) -> tuple[list[tuple[int, ...]], np.ndarray]:
        """What the planner makes of the actor's walk and of the best plans so far.

        Returns widths, best first by the critic's opinion of them as they are, and the actions
        (n, units) that propose them.
        """
        starts = [self._walk(budget), self._begun(budget), *self._best(budget)]
        actions = self._planner.improve(self._critic, budget, np.stack(starts), optimism)
        wishes = self._env.least_keep ** ((1.0 - actions) / 2.0)
        widths = [tuple(row) for row in self._env.round(wishes, budget).tolist()]
        worth = self._critic.optimistic(self._keeps(widths), optimism)
        order = np.argsort(-worth, kind="stable")
        return [widths[i] for i in order], actions[order]

    def _best(self, budget: Budget) -> list[np.ndarray]:
        """Actions of the best plans that were made for about this budget."""
        near = [
            episode
            for episode in self._episodes
            if all(abs(math.log(episode.budget[q] / m)) < _NEAR for q, m in budget.limits.items())
        ]
        best = sorted(near, key=lambda episode: -episode.reward)[:_STARTS]
        return [self._env.encode(episode.executed_keep) for episode in best]

    def _fit(self, pending: Sequence[tuple[int, ...]] = ()) -> None:
        """Fit the critic to all episodes, and to pending widths as it values them itself."""
        keeps = self._keeps([episode.widths for episode in self._episodes])
        losses = np.array([self._loss(episode) for episode in self._episodes])
        if pending:
            believed = self._keeps(pending)
            losses = np.append(losses, np.exp(-self._critic.predict(believed)[0]))
            keeps = np.concatenate([keeps, believed])
        self._critic.fit(keeps, losses)

    def _loss(self, episode: Episode) -> float:
        return self._env.reward.loss(episode.quality, episode.costs)

    def _keeps(self, widths: Sequence[tuple[int, ...]]) -> np.ndarray:
        """Kept fractions (n, units); of a unit that goes altogether, its least wish."""
        dense = [unit.width for unit in self._env.units]
        keeps: np.ndarray = np.maximum(np.array(widths) / dense, self._env.least_keep)
        return keeps

    def _begun(self, budget: Budget) -> np.ndarray:
        """Actions of the plan that the search begins with."""
        start = self._start
        return self._env.encode(
            start.plan(budget).wishes if start else self._env.uniform_keep(budget)
        )

    def _walk(self, budget: Budget) -> np.ndarray:
        """The actor's own actions (units,)."""
        walk, actions = self._env.walk(budget), []
        for _ in self._env.units:
            actions.append(self._apprentice.act(walk.observation[None])[0])
            walk.decide(float(actions[-1]))
        return np.array(actions, dtype=np.float64)

    @property
    def policy(self) -> Policy:
        """A copy of the actor as it is now."""
        training = Training(units=len(self._env.units), episodes=len(self._episodes))
        return Policy(
            copy.deepcopy(self._apprentice.actor),
            self._env.constraint,
            TrainedOn(budget=self._env.budgets.fractions, seed=self._seed, networks=(training,)),
        )

    def diagnostics(self) -> dict[str, float]:
        """The critic's error and uncertainty about the last plans, before they were evaluated, in
        units of the loss's logarithm; and the actor's squared error in imitating the planner."""
        return {**self._diagnostics, "losses/actor": self._apprentice.loss}


def make_apprentice(
    settings: ExpertConfig, memory: int, seed: int, start: Start | None = None
) -> Apprentice:
    """The actor of a search, or of searches on several networks: new, or the start's."""
    apprentice = Apprentice(
        settings.hidden,
        settings.actor_members,
        settings.actor_lr,
        settings.actor_decay,
        memory,
        seed,
    )
    policy = None if start is None else start.policy
    if policy is not None and isinstance(policy.actor, Ensemble):
        apprentice.take_over(policy.actor)
    return apprentice
