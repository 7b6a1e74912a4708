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
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from amc.agents.apprentice import Apprentice
from amc.agents.critic import PlanCritic
from amc.agents.planner import Planner
from amc.agents.policy import Policy
from amc.errors import ConfigError

if TYPE_CHECKING:
    from amc.config import ExpertConfig
    from amc.envs.pruning import Episode, PruningEnv
    from amc.envs.walk import Proposal

_STARTS, _ROUNDED = 8, 16


class ExpertIteration:
    """Learns on one environment; see :class:`amc.agents.Agent`."""

    def __init__(self, env: PruningEnv, settings: ExpertConfig, seed: int) -> None:
        if env.constraint != "projection":
            raise ConfigError(
                f"agent 'expert' plans on the projection, not under constraint {env.constraint!r}: "
                "choose --constraint projection, or --agent ddpg"
            )
        self._env, self._settings, self._seed = env, settings, seed
        exploration, planning = np.random.default_rng(seed).spawn(2)
        self._exploration = exploration
        self._critic = PlanCritic()
        self._planner = Planner(env, planning)
        self._apprentice = Apprentice(settings.hidden, settings.actor_lr, settings.memory, seed)
        self._episodes: list[Episode] = []
        self._asked = 0
        self._deviation = 0.0

    def ask(self, count: int) -> list[Proposal]:
        """Plans under the present budget; the first is the uniform one, some follow around it."""
        proposals: list[Proposal] = []
        for _ in range(count):
            warm = len(self._episodes) >= self._settings.warmup_episodes
            proposals.append(self._planned(proposals) if warm else self._around_uniform())
        return proposals

    def _around_uniform(self) -> Proposal:
        first, self._asked = self._asked == 0, self._asked + 1
        std = 0.0 if first else self._settings.noise_std
        uniform = self._env.encode(self._env.uniform_keep())
        noise = std * self._exploration.standard_normal(len(uniform))
        return self._env.decode(np.clip(uniform + noise, -1.0, 1.0))

    def _planned(self, pending: Sequence[Proposal]) -> Proposal:
        """The most promising new plan, if the pending ones turn out as the critic thinks."""
        if pending:
            self._fit([proposal.widths for proposal in pending])
        known = {e.widths for e in self._episodes} | {p.widths for p in pending}
        plans = self._plan(self._settings.optimism)
        first = next(plans)
        return next((p for p in itertools.chain([first], plans) if p.widths not in known), first)

    def _plan(self, optimism: float) -> Iterator[Proposal]:
        """What the planner makes of the actor's walk and of the best plans so far, best first.

        The critic has the last word on the first of them as they are, rounded to widths.
        """
        best = sorted(self._episodes, key=lambda episode: -episode.reward)[:_STARTS]
        starts = [self._env.encode(episode.executed_keep) for episode in best]
        starts.append(self._walk())
        wishes = self._planner.improve(self._critic, self._env.budget, np.stack(starts), optimism)
        plans = [self._env.decode(actions) for actions in wishes[:_ROUNDED]]
        worth = self._critic.optimistic(self._keeps([plan.widths for plan in plans]), optimism)
        yield from (plans[i] for i in np.argsort(-worth, kind="stable"))
        yield from (self._env.decode(actions) for actions in wishes[_ROUNDED:])

    def _fit(self, pending: Sequence[tuple[int, ...]] = ()) -> None:
        """Fit the critic to all episodes, and to pending widths as it values them itself."""
        keeps = self._keeps([episode.widths for episode in self._episodes])
        losses = self._env.reward.ceiling - np.array([e.reward for e in self._episodes])
        if pending:
            believed = self._keeps(pending)
            losses = np.append(losses, np.exp(-self._critic.predict(believed)[0]))
            keeps = np.concatenate([keeps, believed])
        self._critic.fit(keeps, losses)

    def _keeps(self, widths: Sequence[tuple[int, ...]]) -> np.ndarray:
        """Kept fractions (n, units); of a unit that goes altogether, its least wish."""
        keeps = np.array(widths) / [unit.width for unit in self._env.units]
        return np.maximum(keeps, self._env.least_keep)

    def _walk(self) -> np.ndarray:
        """The actor's own actions (units,)."""
        walk, actions = self._env.walk(), []
        for _ in self._env.units:
            actions.append(self._apprentice.act(walk.observation[None])[0])
            walk.decide(float(actions[-1]))
        return np.array(actions, dtype=np.float64)

    def tell(self, episodes: Sequence[Episode]) -> None:
        """Fit the critic to all episodes, plan with it, and let the actor learn from the plan."""
        self._episodes += episodes
        if len(self._episodes) < self._settings.warmup_episodes:
            return
        self._fit()
        observations, actions = self._env.retrace(next(self._plan(0.0)).widths)
        self._apprentice.watch(observations[:-1], actions)
        self._apprentice.train(self._settings.gradient_steps, self._settings.batch_size)

    @property
    def policy(self) -> Policy:
        """A copy of the actor as it is now."""
        return Policy(
            copy.deepcopy(self._apprentice.actor),
            self._env.constraint,
            {
                "budget": {q: self._env.budget.fraction(q) for q in self._env.budget.limits},
                "units": len(self._env.units),
                "episodes": len(self._episodes),
                "seed": self._seed,
            },
        )

    def diagnostics(self) -> dict[str, float]:
        """The actor's error in imitating the planner."""
        return {"losses/actor": self._apprentice.loss}
