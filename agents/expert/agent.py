"""Expert iteration: a planner improves what the actor proposes, the actor learns from the planner.

One round is one episode:

1. the **actor** goes over the units, and says how much of each it would keep;
2. the **planner** improves this proposal, and the best plans so far, by the **critic**'s prediction
   (:class:`~amc.agents.expert.critic.PlanCritic`: mean + optimism · deviation), at no evaluation;
3. the plan that comes out is evaluated, and the critic learns what it is worth;
4. the actor learns to do what the planner now thinks best.

In the terms of Anthony, Tian and Barber (2017) the planner is the expert and the actor the
learner; in those of actor-critic methods it is an actor whose critic values the whole joint
action of an episode, because that is what the reward depends on.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from amc.agents.expert.critic import LEAST_LOSS, PlanCritic
from amc.agents.expert.imitation import ImitationLearner
from amc.agents.expert.planner import Planner
from amc.agents.expert.settings import ExpertConfig
from amc.agents.policy import Policy, TrainedOn, Training
from amc.agents.policy_network import Ensemble
from amc.agents.warm_start import Start
from amc.envs.action_mapping import keep_on_log_scale
from amc.errors import ConfigError
from amc.tracing.units import dense_widths

if TYPE_CHECKING:
    from amc.cost.budget import Budget
    from amc.envs.problem import PruningProblem
    from amc.envs.rollout import Proposal
    from amc.records.episode import Episode

_STARTS = 8
_NEAR = 0.1
_BISECTIONS = 6


class ExpertIteration:
    """Learns on one environment; see :class:`amc.agents.registry.Agent`.

    The first plan is that of the ``start``, half of the warm-up stays close to it, and the actor is
    the policy's, if it has one; without a start this is the reference plan, where the network's
    sensitivity is known. ``learner`` is the actor where it is shared with searches on other
    networks. Raises :class:`ConfigError` where the environment does not project.
    """

    def __init__(
        self,
        problem: PruningProblem,
        seed: int = 0,
        settings: ExpertConfig | None = None,
        start: Start | None = None,
        learner: ImitationLearner | None = None,
    ) -> None:
        if problem.constraint != "projection":
            raise ConfigError(
                "agent 'expert' plans on the projection, not under constraint "
                f"{problem.constraint!r}: choose --constraint projection, or --agent ddpg"
            )
        settings = settings or ExpertConfig()
        if start is None and problem.prior.sensitivity is not None:
            start = Start(problem.reference)
        self._problem, self._settings, self._seed, self._start = problem, settings, seed, start
        self._exploration, planning, learning = np.random.default_rng(seed).spawn(3)
        # Who looks for the cheapest network that is good enough stays about one budget, too.
        ranged = len(problem.budgets.spread(2)) > 1 and problem.reward.target_loss is None
        self._optimism = settings.range_optimism if ranged else settings.optimism
        memory = settings.range_memory if ranged else settings.memory
        self._steps = settings.range_gradient_steps if ranged else settings.gradient_steps
        self._critic = PlanCritic()
        self._planner = Planner(problem, planning)
        self._learner = learner or make_learner(settings, memory, seed, start)
        anywhere = [problem.budgets.draw(learning) for _ in range(memory // 2)]
        self._budgets_to_learn = itertools.cycle(
            [*problem.budgets.spread(memory - len(anywhere)), *anywhere]
        )
        self._episodes: list[Episode] = []
        self._asked = 0
        self._diagnostics: dict[str, float] = {}

    def ask(self, count: int) -> list[Proposal]:
        """Plans, each under a budget of its own where there is a range.

        The start's plan, the uniform one, some around either, then planned ones.
        """
        proposals: list[Proposal] = []
        for _ in range(count):
            budget = self._problem.budgets.draw(self._exploration)
            if len(self._episodes) < self._settings.warmup_episodes:
                proposals.append(self._begin(budget))
                continue
            if self._problem.reward.target_loss is not None:
                budget = self._cheapest(self._problem.reward.target_loss)
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
        budget = next(self._budgets_to_learn)
        widths, _ = self._plan(budget, optimism=0.0)
        observations, actions = self._problem.retrace(widths[0], budget)
        self._learner.watch(observations[:-1], actions)
        self._learner.train(self._steps, self._settings.batch_size)

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
        centre = (
            self._begun(budget)
            if near
            else self._problem.encode(self._problem.uniform_keep(budget))
        )
        if number < (2 if self._start else 1):
            std = 0.0
        noise = std * self._exploration.standard_normal(len(centre))
        return self._problem.decode(np.clip(centre + noise, -1.0, 1.0), budget)

    def _planned(self, budget: Budget, pending: Sequence[Proposal]) -> Proposal:
        """The most promising new plan, if the pending ones turn out as the critic thinks."""
        if pending:
            self._fit([proposal.widths for proposal in pending])
        known = {e.widths for e in self._episodes} | {p.widths for p in pending}
        plans, actions = self._plan(budget, self._optimism)
        new = next((i for i, widths in enumerate(plans) if widths not in known), 0)
        return self._problem.decode(actions[new], budget)

    def _cheapest(self, target_loss: float) -> Budget:
        """The lowest budget of the range at which a plan should reach ``target_loss``."""
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            budget = self._problem.budgets.at(middle)
            widths, _ = self._plan(budget, optimism=0.0)
            worth, _ = self._critic.predict(self._keeps(widths[:1]))
            low, high = (low, middle) if worth[0] >= -math.log(target_loss) else (middle, high)
        return self._problem.budgets.at(high)

    def _plan(self, budget: Budget, optimism: float) -> tuple[list[tuple[int, ...]], np.ndarray]:
        """What the planner makes of the actor's rollout and of the best plans so far.

        Returns widths, best first by what the critic expects of them as they are, and the actions
        (n, units) that propose them.
        """
        starts = [self._rollout(budget), self._begun(budget), *self._best(budget)]
        actions = self._planner.improve(self._critic, budget, np.stack(starts), optimism)
        wishes = keep_on_log_scale(self._problem.least_keep, actions)
        widths = [tuple(row) for row in self._problem.round(wishes, budget).tolist()]
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
        return [self._problem.encode(episode.executed_keep) for episode in best]

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
        return self._problem.reward.loss(episode.quality, episode.costs)

    def _keeps(self, widths: Sequence[tuple[int, ...]]) -> np.ndarray:
        """Kept fractions (n, units); of a unit that goes altogether, its least wish."""
        dense = dense_widths(self._problem.units)
        keeps: np.ndarray = np.maximum(np.array(widths) / dense, self._problem.least_keep)
        return keeps

    def _begun(self, budget: Budget) -> np.ndarray:
        """Actions of the plan that the search begins with."""
        start = self._start
        return self._problem.encode(
            start.plan(budget).wishes if start else self._problem.uniform_keep(budget)
        )

    def _rollout(self, budget: Budget) -> np.ndarray:
        """The actor's own actions (units,)."""
        rollout, actions = self._problem.rollout(budget), []
        for _ in self._problem.units:
            actions.append(self._learner.act(rollout.observation[None])[0])
            rollout.decide(float(actions[-1]))
        return np.array(actions, dtype=np.float64)

    @property
    def policy(self) -> Policy:
        """A copy of the actor as it is now."""
        training = Training(units=len(self._problem.units), episodes=len(self._episodes))
        return Policy(
            copy.deepcopy(self._learner.actor),
            self._problem.constraint,
            TrainedOn(
                budget=self._problem.budgets.fractions, seed=self._seed, networks=(training,)
            ),
        )

    def diagnostics(self) -> dict[str, float]:
        """The critic's error and uncertainty about the last plans, before they were evaluated, in
        units of the loss's logarithm; and the actor's squared error in imitating the planner."""
        return {**self._diagnostics, "losses/actor": self._learner.loss}


def make_learner(
    settings: ExpertConfig, memory: int, seed: int, start: Start | None = None
) -> ImitationLearner:
    """The actor of a search, or of searches on several networks: new, or the start's."""
    learner = ImitationLearner(
        settings.hidden,
        settings.actor_members,
        settings.actor_lr,
        settings.actor_decay,
        memory,
        seed,
    )
    policy = None if start is None else start.policy
    if policy is not None and isinstance(policy.actor, Ensemble):
        learner.take_over(policy.actor)
    return learner
