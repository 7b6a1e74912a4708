"""What was found elsewhere, on this network: plans without a search, and where a search begins."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from amc.agents.policy import Policy
from amc.budget import Budget
from amc.config import Bound
from amc.envs.pruning import Episode, PruningEnv
from amc.envs.walk import Proposal
from amc.errors import ConfigError


@dataclass(frozen=True)
class Start:
    """An opinion of how much of each unit to keep, under any budget."""

    plan: Callable[[Budget], Proposal]
    policy: Policy | None = None
    """The policy whose opinion it is, if it is one's."""

    @classmethod
    def of_policy(cls, policy: Policy, env: PruningEnv) -> Start:
        """The plans of ``policy``, :class:`Tempered`. Raises what :func:`check_fit` raises."""
        check_fit(policy, env)
        return cls(Tempered(policy, env), policy)

    @classmethod
    def of_keeps(cls, keeps: Sequence[float], env: PruningEnv) -> Start:
        """The same wishes (units,), kept fractions, under every budget."""
        actions = env.encode(keeps)
        return cls(lambda budget: env.decode(actions, budget))


class Tempered:
    """The plans of a policy, as far as it can be trusted on a network that it never saw.

    Of its own plan, the reference plan and the one half way between them (in the logarithms of the
    keeps) that one is taken with which the network loses least on training images; its own, where
    there are none.
    """

    def __init__(self, policy: Policy, env: PruningEnv) -> None:
        self._policy, self._env = policy, env
        self._plans: dict[tuple[tuple[str, float], ...], Proposal] = {}

    def __call__(self, budget: Budget) -> Proposal:
        """The plan on ``budget``."""
        limits = tuple(budget.limits.items())
        if limits not in self._plans:
            self._plans[limits] = self._best(budget)
        return self._plans[limits]

    def _best(self, budget: Budget) -> Proposal:
        env, probe = self._env, self._env.probe
        own = play(self._policy, env, budget)
        if probe is None:
            return own
        reference = env.reference(budget)
        dense = [unit.width for unit in env.units]
        ends = [env.encode([*np.divide(plan.widths, dense)]) for plan in (own, reference)]
        between = env.decode(np.mean(ends, axis=0), budget)
        return min((own, between, reference), key=lambda plan: probe(plan.widths))


class Walks:
    """The plans of a start as they are: one for each budget, or those spread over a range."""

    policy = None

    def __init__(self, env: PruningEnv, start: Start) -> None:
        self._start = start
        self._budgets = iter(env.budgets.spread())

    def ask(self, count: int) -> list[Proposal]:
        """The plans of the next ``count`` budgets."""
        return [self._start.plan(budget) for budget in islice(self._budgets, count)]

    def tell(self, episodes: Sequence[Episode]) -> None:
        """Nothing to learn."""

    def diagnostics(self) -> dict[str, float]:
        """Nothing."""
        return {}


def play(policy: Policy, env: PruningEnv, budget: Budget) -> Proposal:
    """The walk of ``policy`` under ``budget``, without exploration."""
    walk = env.walk(budget)
    while not walk.finished:
        walk.decide(float(policy.act(walk.observation)[0]))
    return walk.propose()


def check_fit(policy: Policy, env: PruningEnv) -> None:
    """Whether ``policy`` can act on ``env``.

    Raises :class:`ConfigError` where it was trained under another constraint; warns where it was
    trained under other budgets.
    """
    if policy.constraint != env.constraint:
        raise ConfigError(
            f"the policy was trained with the constraint {policy.constraint!r}, not "
            f"{env.constraint!r}; choose its own"
        )
    trained, asked = policy.trained_on.budget, env.budgets.fractions
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
