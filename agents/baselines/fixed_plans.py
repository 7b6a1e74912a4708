"""Plans that are known without a search, evaluated once; one for each budget of a range."""

from __future__ import annotations

from abc import abstractmethod
from itertools import islice
from typing import Any

from amc.agents.baselines.base import Baseline
from amc.cost.budget import Budget
from amc.envs.rollout import Proposal


class FixedPlans(Baseline):
    """Proposes :meth:`plan` of the budget, or of budgets spread over a range, and ends."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._budgets = iter(self._problem.budgets.spread())

    @abstractmethod
    def plan(self, budget: Budget) -> Proposal:
        """The plan on ``budget``."""

    def ask(self, count: int) -> list[Proposal]:
        """The plans of the next ``count`` budgets."""
        return [self.plan(budget) for budget in islice(self._budgets, count)]


class Uniform(FixedPlans):
    """The plan that keeps the same fraction of every unit."""

    def plan(self, budget: Budget) -> Proposal:
        """See :class:`FixedPlans`."""
        return self._problem.uniform(budget)


class Reference(FixedPlans):
    """What is known before any plan is evaluated (:mod:`amc.envs.reference_plan`)."""

    def plan(self, budget: Budget) -> Proposal:
        """See :class:`FixedPlans`."""
        return self._problem.reference(budget)


class Replayed(FixedPlans):
    """The plans of a policy or plan from elsewhere as they are."""

    def plan(self, budget: Budget) -> Proposal:
        """See :class:`FixedPlans`."""
        assert self._start is not None
        return self._start.plan(budget)
