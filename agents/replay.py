"""What was found elsewhere, on this network: plans without a search, and where a search begins."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

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
        """The walks of ``policy``. Raises what :func:`check_fit` raises."""
        check_fit(policy, env)
        return cls(partial(play, policy, env), policy)

    @classmethod
    def of_keeps(cls, keeps: Sequence[float], env: PruningEnv) -> Start:
        """The same wishes (units,), kept fractions, under every budget."""
        actions = env.encode(keeps)
        return cls(lambda budget: env.decode(actions, budget))


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
