"""The multiple of channels that a device likes: on whose grid plans keep the most."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from amc.cost.budget import Budget
from amc.cost.projection import Projector
from amc.cost.table import CostTable, Latency
from amc.tracing.units import Units

MULTIPLES = (1, 2, 4, 8, 16, 32)
KEPT_LATENCY = (0.6, 0.6)
"""Between which fractions of the dense latency grids are compared where nothing is asked for."""
_WISHES = 12
_EQUAL = 0.02
"""Grids that keep this much less of every unit than the best one count as equally good."""


def best_multiple(
    units: Units, latency: Latency, kept_latency: tuple[float, float] = KEPT_LATENCY
) -> int:
    """Of how many channels widths should be multiples, on a device of this ``latency``.

    Plans of random proportions are projected onto fractions of the dense latency, from the low end
    of ``kept_latency`` to its high end, on each grid that has plans of all of them. Where kernels
    work in blocks, plans between two of them keep less of their units (in the geometric mean) than
    those on a coarser grid, on which fewer plans are left: of the grids that keep nearly the most
    it is the finest. ``units`` are those of a search, without multiples, and ``latency`` is a
    function of their widths, in whatever unit of time.
    """
    if not units:
        return 1
    cost = CostTable(units, latency)
    limits_us = cost.dense("latency_us") * np.unique(np.linspace(*kept_latency, 3))
    budgets = [Budget({"latency_us": float(limit)}, cost) for limit in limits_us]
    wishes = np.random.default_rng(0).uniform(0.5, 1.0, (_WISHES, len(units)))
    log_keep = {}
    for multiple in MULTIPLES:
        grids = [replace(unit, multiple=unit.step(multiple)) for unit in units]
        if budgets[0].met([unit.widths[0] for unit in grids]):
            project = Projector(grids)
            plans = np.concatenate([project(wishes, budget) for budget in budgets])
            log_keep[multiple] = float(np.log(plans / units.dense_widths).mean())
    most = max(log_keep.values(), default=0.0)
    return next((m for m, keep in log_keep.items() if keep >= most - _EQUAL), 1)
