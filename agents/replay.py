"""A trained policy, played as it is: the plans that it makes without any search."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import islice

from pydantic import TypeAdapter, ValidationError

from amc.agents.policy import Policy
from amc.budget import Budget
from amc.config import Bound, explain
from amc.envs.pruning import Episode, PruningEnv
from amc.envs.walk import Proposal
from amc.errors import ConfigError

_FRACTIONS: TypeAdapter[dict[str, Bound]] = TypeAdapter(dict[str, Bound])


class PolicyWalks:
    """One deterministic walk for each budget: the only one, or those spread over a range.

    Raises :class:`ConfigError` for a policy whose actions mean something else.
    """

    policy = None

    def __init__(self, env: PruningEnv, policy: Policy) -> None:
        check_fit(policy, env)
        self._env, self._actor = env, policy
        self._budgets = iter(env.budgets.spread())

    def ask(self, count: int) -> list[Proposal]:
        """The plans of the next ``count`` budgets."""
        return [play(self._actor, self._env, budget) for budget in islice(self._budgets, count)]

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
    try:
        trained = _FRACTIONS.validate_python(policy.trained_on.get("budget", {}))
    except ValidationError as error:
        raise ConfigError(f"the policy's trained_on.budget: {explain(error)}") from None
    asked = env.budgets.fractions
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
