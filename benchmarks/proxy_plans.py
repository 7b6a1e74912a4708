"""Plans of one network on one budget, from bad to as good as searches find."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from amc.cost.budget import Budget
from amc.cost.projection import project
from amc.tracing.units import Units

BAND = 0.01
"""How far a plan's MACs may be from the budget, as a fraction of the budget."""


def spread_plans(
    units: Units, budget: Budget, found: Sequence[dict[str, Any]], count: int, seed: int
) -> list[tuple[str, tuple[int, ...]]]:
    """``count`` distinct plans within :data:`BAND` of the budget, and where each comes from.

    Those that searches ``found`` (lines of ``results/compare-NETWORK/runs.jsonl``); perturbations
    of the uniform plan, exp(s z) with z standard normal and s from .05 to .8; and, about as many,
    random walks, whose wishes are uniform in their logarithm. The three kinds are interleaved
    evenly, so that the first plans of the list span the range as all of them do.
    """
    generator = np.random.default_rng(seed)
    plans: dict[tuple[int, ...], str] = {}
    for line in found:
        plans.setdefault(tuple(line["widths"]), f"found by {line['agent']}")

    def add(draw: Callable[[], np.ndarray], source: str) -> None:
        widths = project(draw(), units, budget)
        while widths in plans or budget.cost.macs(widths) < (1 - BAND) * budget.limits["macs"]:
            widths = project(draw(), units, budget)
        plans[widths] = source

    least = np.array([unit.widths[0] / unit.width for unit in units])

    def perturbed(deviation: float) -> np.ndarray:
        return np.exp(deviation * generator.standard_normal(len(units)))

    for deviation in np.linspace(0.05, 0.8, (count - len(plans)) // 2).tolist():
        add(partial(perturbed, deviation), f"perturbed {deviation:.2f}")
    while len(plans) < count:
        add(lambda: least ** generator.uniform(size=len(units)), "random")
    return _interleaved([(source, widths) for widths, source in plans.items()])


def _interleaved(plans: list[tuple[str, tuple[int, ...]]]) -> list[tuple[str, tuple[int, ...]]]:
    """Ordered by each plan's relative place among its kind."""
    kinds = [source.split()[0] for source, _ in plans]
    place = [(kinds[:i].count(kind) + 0.5) / kinds.count(kind) for i, kind in enumerate(kinds)]
    return [plans[i] for i in np.argsort(place, kind="stable")]
