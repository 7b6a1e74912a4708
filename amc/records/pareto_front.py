"""The plans of one search that are worth having: no other costs less and is better.

Rewards of different budgets do not compare, so that a search over a range of budgets has no single
best plan. ``front.json`` holds them all, ready to be applied.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from amc.config import SearchConfig, sign_of
from amc.cost.quantities import Bound, Limit, word
from amc.errors import BudgetError, ConfigError, PlanError
from amc.pruning.plan import Plan
from amc.records.episode import Episode
from amc.utils import formatting
from amc.utils.json_document import JsonDocument


class Front(JsonDocument):
    """``front.json``: plans from the cheapest and worst to the best, and what they come from."""

    kind = "a sound front"
    fault = PlanError
    absent = "; only a search over a range of budgets has several plans to choose from"
    indent = None
    format: Literal["amc.front/1"] = "amc.front/1"
    dense_quality: dict[str, float]
    """Search-val quality of the dense network."""
    plans: tuple[Plan, ...]

    def within(self, limits: Mapping[str, Bound]) -> Plan:
        """The best plan that costs no more than ``limits``.

        Raises :class:`BudgetError` where all cost more, and :class:`ConfigError` for a range.
        """
        for plan in reversed(self.plans):
            missing = [name for name in limits if name not in plan.costs]
            if missing:
                known = ", ".join(map(word, plan.costs))
                raise BudgetError(
                    f"this search did not look at {word(missing[0])}; its plans are known by "
                    f"{known}"
                )
            if all(_met(plan.costs[q], plan.kept[q], bound) for q, bound in limits.items()):
                return plan
        names = self.plans[0].costs if self.plans else ()
        least = ", ".join(
            f"{formatting.percent(min(plan.kept[name] for plan in self.plans))} of the {word(name)}"
            for name in names
        )
        raise BudgetError(
            f"none of the {len(self.plans)} plans is within this budget; the least: {least}"
        )


def nondominated(episodes: Iterable[Episode], config: SearchConfig) -> list[Episode]:
    """The episodes that no other beats in the quality and in every cost that the search bounds.

    From the worst to the best, one for each quality.
    """
    sign = sign_of(config.signal)

    def costs(episode: Episode) -> tuple[float, ...]:
        return tuple(episode.costs[name] for name in config.costs)

    # The better comes first, and of two equally good ones the cheaper: only those that are kept
    # already can dominate.
    ranked = sorted(episodes, key=lambda e: (-sign * e.quality[config.signal], costs(e), e.number))
    kept: list[Episode] = []
    for episode in ranked:
        own = costs(episode)
        if all(any(a < b for a, b in zip(own, costs(e), strict=True)) for e in kept):
            kept.append(episode)
    return kept[::-1]


def merit(episode: Episode, config: SearchConfig) -> tuple[bool, float]:
    """What ``plan.json`` has most of: the reward, under a range that of plans within its middle."""
    middle = {name: _middle(bound) for name, bound in config.budget.items()}
    within = config.min_accuracy is not None or all(
        _met(episode.costs[name], episode.kept[name], limit) for name, limit in middle.items()
    )
    return within, episode.reward


def _middle(bound: Bound) -> Limit:
    if not isinstance(bound, tuple):
        return bound
    low, high = bound
    return (low + high) / 2 if isinstance(low, float) else round((low + high) / 2)


def _met(count: float, kept: float, bound: Bound) -> bool:
    if isinstance(bound, tuple):
        raise ConfigError(f"{bound[0]}:{bound[1]}: choose a plan by one bound, not by a range")
    # A fraction of a fraction may differ from the bound by rounding.
    return kept <= bound * (1 + 1e-12) if isinstance(bound, float) else count <= bound
