"""What searchers plan with: one network's units, costs, budgets and quality.

It says which plan a row of actions means (:meth:`PruningProblem.decode`), which actions mean a plan
(:meth:`~PruningProblem.encode`), and what a plan is worth (:meth:`~PruningProblem.score`). The
environment (:mod:`amc.envs.pruning`) is a view of it, a unit at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from amc.config import ConstraintName
from amc.envs.action_mapping import ActionMapping, make_action_mapping
from amc.envs.observation import Observer
from amc.envs.reference_plan import Lost, ReferencePlan, Tuned
from amc.envs.rollout import Proposal, Rollout, retrace
from amc.errors import EvaluationError, UnitError
from amc.records.episode import Episode
from amc.tracing.units import kept_fractions

if TYPE_CHECKING:
    from amc.cost.budget import Budget, Budgets
    from amc.cost.projection import Projector
    from amc.cost.table import CostTable
    from amc.envs.reward import Reward
    from amc.envs.sensitivity import Sensitivity
    from amc.tracing.units import Units

Evaluate = Callable[[tuple[int, ...]], Mapping[str, float]]
"""Kept widths, one per unit, to quality: ``accuracy``, ``cross_entropy``, ``kl``, ..."""


@dataclass(frozen=True, eq=False)
class Prior:
    """What is known of a network's units before any plan is evaluated."""

    importance: Sequence[np.ndarray]
    """Per unit, (width,) scores of its groups of channels."""
    sensitivity: Sensitivity | None = None
    """What each unit means to the network; None where it is not known."""
    tuned: Sequence[Tuned] = ()
    """What that makes of some budgets; none: the reference plan is the uniform one."""
    probe: Lost | None = None
    """What the network loses at some widths on training images, for plans that nobody evaluates;
    None where it is not known."""


class PruningProblem:
    """One network under one budget, or a range of them.

    Args:
        units: the units, in forward order.
        cost: closed-form costs of any widths.
        budgets: upper bounds, or a range of them.
        evaluate: widths to quality; called once a plan, and remembered by the caller, if at all.
        reward: quality and absolute costs to a number.
        prior: what is known before a plan is evaluated.
        constraint: ``projection`` or ``sequential``, how actions become widths on a budget
            (:mod:`amc.envs.action_mapping`).

    Raises:
        UnitError: there are no units.
        BudgetError: not even the least widths meet the budget.
    """

    def __init__(
        self,
        units: Units,
        cost: CostTable,
        budgets: Budgets,
        evaluate: Evaluate,
        reward: Reward,
        prior: Prior,
        constraint: ConstraintName = "projection",
    ) -> None:
        if not units:
            raise UnitError(
                "there is no unit to prune: exclude fewer, or look at why they are frozen"
            )
        self.units, self.cost, self.budgets = units, cost, budgets
        self.evaluate, self.reward, self.prior = evaluate, reward, prior
        self.constraint = constraint
        self._reference = ReferencePlan(units, cost, prior.tuned)
        self._observe = Observer(
            units, cost, prior.importance, prior.sensitivity, self._reference_actions
        )
        (middle,) = budgets.spread(1)
        self._mapping = make_action_mapping(constraint, units, cost, middle)
        self._episodes = 0

    @property
    def budget(self) -> Budget:
        """The budget, or the middle of the range: where the methods below are given none."""
        return self._mapping.budget

    @property
    def projector(self) -> Projector:
        """What puts wishes on a budget, many at once."""
        return self._mapping.projector

    def rollout(self, budget: Budget | None = None) -> Rollout:
        """A pass over the units under ``budget``; any number can be under way at once."""
        return Rollout(self._under(budget), self._observe)

    def retrace(
        self, widths: Sequence[int], budget: Budget | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rollout in which a plan itself is proposed: :func:`amc.envs.rollout.retrace`."""
        return retrace(self._under(budget), self._observe, widths)

    def decode(self, actions: np.ndarray, budget: Budget | None = None) -> Proposal:
        """The plan of a rollout that takes ``actions`` (units,), whatever it observes."""
        rollout = self.rollout(budget)
        for action in actions:
            rollout.decide(float(action))
        return rollout.propose()

    def round(self, wishes: np.ndarray, budget: Budget) -> np.ndarray:
        """Widths (n, units) that wishes (n, units) become; without limits the nearest allowed."""
        if not budget.limits:
            return np.array([self.decode(self.encode(row), budget).widths for row in wishes])
        return self.projector(wishes, budget)

    def encode(self, keeps: Sequence[float]) -> np.ndarray:
        """The actions (units,) float64 that wish ``keeps``, kept fractions of the units."""
        return np.array([self._mapping.action(i, keep) for i, keep in enumerate(keeps)])

    @property
    def least_keep(self) -> np.ndarray:
        """(units,) the kept fractions that action -1 wishes."""
        return self._mapping.least_keep

    def uniform_keep(self, budget: Budget | None = None) -> tuple[float, ...]:
        """Kept fractions of the uniform plan: the same wish everywhere, on the budget."""
        return self._projected(np.ones(len(self.units)), budget)

    def reference_keep(self, budget: Budget | None = None) -> tuple[float, ...]:
        """Kept fractions of the reference plan: what is known before any plan is evaluated.

        The uniform plan, where nothing is (:class:`amc.envs.reference_plan.ReferencePlan`).
        """
        return self._projected(self._reference.wishes(budget or self.budget), budget)

    def uniform(self, budget: Budget | None = None) -> Proposal:
        """The uniform plan, as a rollout proposes it."""
        return self.decode(self.encode(self.uniform_keep(budget)), budget)

    def reference(self, budget: Budget | None = None) -> Proposal:
        """The reference plan, as a rollout proposes it."""
        return self.decode(self.encode(self.reference_keep(budget)), budget)

    def score(self, proposal: Proposal) -> Episode:
        """Evaluate a proposal. Raises :class:`EvaluationError`, naming its widths."""
        started = time.perf_counter()
        try:
            quality = self.evaluate(proposal.widths)
        except EvaluationError as error:
            raise EvaluationError(f"widths {list(proposal.widths)}: {error}") from error
        return self.conclude(proposal, quality, time.perf_counter() - started)

    def conclude(
        self, proposal: Proposal, quality: Mapping[str, float], evaluate_seconds: float
    ) -> Episode:
        """The episode that ends with this quality. Raises what the reward raises."""
        widths = proposal.widths
        costs = self.cost.costs(widths)
        try:
            reward = self.reward(quality, costs)
        except EvaluationError as error:
            raise EvaluationError(f"widths {list(widths)}: {error}") from error
        self._episodes += 1
        return Episode(
            number=self._episodes,
            widths=widths,
            proposed_keep=proposal.wishes,
            executed_keep=kept_fractions(widths, self.units),
            costs=costs,
            kept={name: value / self.cost.dense(name) for name, value in costs.items()},
            quality=dict(quality),
            reward=reward,
            seconds={"project": proposal.project_seconds, "evaluate": evaluate_seconds},
            budget=dict(proposal.budget.limits),
        )

    def _projected(self, wishes: np.ndarray, budget: Budget | None) -> tuple[float, ...]:
        (widths,) = self.projector(wishes[None], budget or self.budget)
        return tuple(int(k) / unit.width for k, unit in zip(widths, self.units, strict=True))

    def _reference_actions(self, budget: Budget) -> np.ndarray:
        return self.encode(self.reference_keep(budget))

    def _under(self, budget: Budget | None) -> ActionMapping:
        return self._mapping if budget is None else self._mapping.under(budget)
