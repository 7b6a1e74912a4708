"""What was found elsewhere, on this network: plans without a search, and where a search begins."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from amc.agents.policy import Policy
from amc.cost.budget import Budget
from amc.cost.quantities import Bound
from amc.envs.problem import PruningProblem
from amc.envs.rollout import Proposal
from amc.errors import ConfigError
from amc.tracing.units import dense_widths


@dataclass(frozen=True)
class Start:
    """How much of each unit to keep, under any budget, as something from elsewhere proposes."""

    plan: Callable[[Budget], Proposal]
    policy: Policy | None = None
    """The policy that proposes it, if one does."""

    @classmethod
    def of_policy(cls, policy: Policy, problem: PruningProblem) -> Start:
        """The plans of ``policy`` (:class:`CautiousPolicy`).

        Raises what :func:`check_fit` raises.
        """
        check_fit(policy, problem)
        return cls(CautiousPolicy(policy, problem), policy)

    @classmethod
    def of_keeps(cls, keeps: Sequence[float], problem: PruningProblem) -> Start:
        """The same wishes (units,), kept fractions, under every budget."""
        actions = problem.encode(keeps)
        return cls(lambda budget: problem.decode(actions, budget))


class CautiousPolicy:
    """The plans of a policy, as far as it can be trusted on a network that it never saw.

    Of its own plan, the reference plan and the one half way between them (in the logarithms of the
    keeps) that one is taken with which the network loses least on training images; its own, where
    there are none.
    """

    def __init__(self, policy: Policy, problem: PruningProblem) -> None:
        self._policy, self._problem = policy, problem
        self._plans: dict[tuple[tuple[str, float], ...], Proposal] = {}

    def __call__(self, budget: Budget) -> Proposal:
        """The plan on ``budget``."""
        limits = tuple(budget.limits.items())
        if limits not in self._plans:
            self._plans[limits] = self._best(budget)
        return self._plans[limits]

    def _best(self, budget: Budget) -> Proposal:
        problem, probe = self._problem, self._problem.prior.probe
        own = play(self._policy, problem, budget)
        if probe is None:
            return own
        reference = problem.reference(budget)
        dense = dense_widths(problem.units)
        ends = [problem.encode([*np.divide(plan.widths, dense)]) for plan in (own, reference)]
        between = problem.decode(np.mean(ends, axis=0), budget)
        return min((own, between, reference), key=lambda plan: probe(plan.widths))


def play(policy: Policy, problem: PruningProblem, budget: Budget) -> Proposal:
    """What ``policy`` does under ``budget``, without exploration."""
    rollout = problem.rollout(budget)
    while not rollout.finished:
        rollout.decide(float(policy.act(rollout.observation)[0]))
    return rollout.propose()


def check_fit(policy: Policy, problem: PruningProblem) -> None:
    """Whether ``policy`` can act on ``problem``.

    Raises :class:`ConfigError` where it was trained under another constraint; warns where it was
    trained under other budgets.
    """
    if policy.constraint != problem.constraint:
        raise ConfigError(
            f"the policy was trained with the constraint {policy.constraint!r}, not "
            f"{problem.constraint!r}; choose its own"
        )
    trained, asked = policy.trained_on.budget, problem.budgets.fractions
    for name in trained | asked:
        (least, most), (low, high) = _ends(trained.get(name, 1.0)), _ends(asked.get(name, 1.0))
        if low < least - 1e-3 or high > most + 1e-3:
            warnings.warn(
                f"the policy was trained at {_share(least, most)} of the {name}, and is asked for "
                f"{_share(low, high)}: expect less of it",
                stacklevel=2,
            )


def _ends(bound: Bound) -> tuple[float, float]:
    return bound if isinstance(bound, tuple) else (bound, bound)


def _share(low: float, high: float) -> str:
    return f"{low:.1%}" if low == high else f"{low:.1%} to {high:.1%}"
