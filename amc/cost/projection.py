"""The projection of wishes onto a budget: kept widths in their proportions, on the budget.

All wishes are scaled together by the largest factor that fits, then what rounding left is spent:
units grow by a step as long as that fits, and where much is left still, one unit grows a step more
at the expense of all others. Many wishes are projected at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amc.cost.budget import Budget
from amc.tracing.units import Unit, dense_widths

SLACK = 0.005
"""Fraction of the scarcest bound that may be left unspent without looking for more."""

WASTE = 0.05
"""Fraction from which on a plan is changed a lot, rather than left."""

_BISECTIONS = 30
_LEAP = 16
"""Widths that a unit looks ahead: kernels work in blocks of that many channels."""


def project(wishes: np.ndarray, units: Sequence[Unit], budget: Budget) -> tuple[int, ...]:
    """:class:`Projector` for a single row of wishes, (units,)."""
    (widths,) = Projector(units)(wishes[None], budget).tolist()
    return tuple(widths)


class Projector:
    """Kept widths on a budget, as close as can be to proportional to what is wished."""

    def __init__(self, units: Sequence[Unit]) -> None:
        grids = [np.array(unit.widths) for unit in units]
        self._dense = np.array(dense_widths(units))
        self._last = np.array([len(grid) - 1 for grid in grids])
        most = int(self._last.max()) + 1
        padded = [np.pad(grid, (0, most - len(grid)), mode="edge") for grid in grids]
        self._grids = np.array(padded, dtype=np.float64)
        # A table takes the place of a search: the middle of two allowed widths is a whole number of
        # halves, so that an aim and its half rounded up are nearest to the same width.
        halves = np.arange(2 * int(self._dense.max()) + 1)
        middles = [grid[1:] + grid[:-1] for grid in grids]  # in halves
        self._nearest = np.array([np.searchsorted(m, halves) for m in middles])
        self._unit = np.arange(len(grids))

    def __call__(self, wishes: np.ndarray, budget: Budget) -> np.ndarray:
        """Allowed kept widths (n, units) that meet ``budget``, integers.

        ``wishes`` is (n, units), kept fractions above 0. With W the dense widths, the result is
        nearest to min(1, scale · wishes) · W for the largest scale that fits, but for steps that
        spend what rounding left: no unit can grow a step and all bounds still be met (under a bound
        on latency: nor up to :data:`_LEAP` steps), and no more than
        :data:`SLACK` of the scarcest bound is left where a plan near by has so little. A result's
        own kept fractions are projected onto itself.
        """
        if budget.met(self._dense):
            return np.tile(self._dense, (len(wishes), 1))
        proportions = wishes / wishes.max(axis=1, keepdims=True)
        aims = proportions * self._dense
        high = 1.0 / proportions.min(axis=1)  # every unit is whole
        scale = self._largest_scale(aims, np.zeros_like(aims, dtype=np.int64), high, budget)
        aims = np.minimum(scale[:, None] * aims, self._dense)
        ranks = self._fill(self._ranks(aims), aims, budget)
        ranks = self._trade(ranks, budget)
        if not budget.monotone:
            ranks = self._leap(ranks, budget)
        return self._widths(ranks).astype(np.int64)

    def _widths(self, ranks: np.ndarray) -> np.ndarray:
        widths: np.ndarray = self._grids[self._unit, ranks]
        return widths

    def _ranks(self, aims: np.ndarray) -> np.ndarray:
        """Of the nearest allowed widths; the lower one of two."""
        halves = np.ceil(2 * np.minimum(aims, self._dense)).astype(np.int64)
        ranks: np.ndarray = self._nearest[self._unit, halves]
        return ranks

    def _largest_scale(
        self, aims: np.ndarray, least: np.ndarray, high: np.ndarray, budget: Budget
    ) -> np.ndarray:
        """(n,) the largest scales in [0, high] at which ``aims`` fit, ranks at ``least`` or up."""
        low = np.zeros(len(aims))
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            ranks = np.maximum(self._ranks(middle[:, None] * aims), least)
            fits = budget.slack(self._widths(ranks)) >= 0
            low, high = np.where(fits, middle, low), np.where(fits, high, middle)
        return low

    def _fill(self, ranks: np.ndarray, aims: np.ndarray, budget: Budget) -> np.ndarray:
        """Let units grow by a step in turn, as long as one can, the worst rounded first."""
        ranks = ranks.copy()
        turns = np.argsort(self._widths(ranks) - aims, axis=1, kind="stable")
        rows = np.arange(len(ranks))
        while rows.size:
            grown = np.zeros(len(rows), dtype=bool)
            for unit in turns[rows].T:
                trial = ranks[rows]
                trial[np.arange(len(rows)), unit] += 1
                fits = ranks[rows, unit] < self._last[unit]
                trial = np.minimum(trial, self._last)
                fits &= budget.slack(self._widths(trial)) >= 0
                ranks[rows[fits], unit[fits]] += 1
                grown |= fits
            rows = rows[grown]
        return ranks

    def _leap(self, ranks: np.ndarray, budget: Budget) -> np.ndarray:
        """Let units grow over widths that do not fit to ones that do, while there are such.

        Time is a staircase, and not every stair leads up: 36 channels may take less than 33.
        """
        ranks = ranks.copy()
        steps = np.arange(1, _LEAP + 1)
        rows = np.arange(len(ranks))
        while rows.size:
            grown = np.zeros(len(rows), dtype=bool)
            for unit in self._unit:
                trial = np.repeat(ranks[rows][:, None], _LEAP, axis=1)
                trial[:, :, unit] += steps
                fits = trial[:, :, unit] <= self._last[unit]
                fits &= budget.slack(self._widths(np.minimum(trial, self._last))) >= 0
                found = fits.any(axis=1)
                furthest = _LEAP - fits[:, ::-1].argmax(axis=1)
                ranks[rows[found], unit] += furthest[found]
                grown |= found
            rows = rows[grown]
        return ranks

    def _trade(self, ranks: np.ndarray, budget: Budget) -> np.ndarray:
        """While too much is unspent, let a unit grow by a step at the expense of others.

        These shrink alike and little, or one of them does, or they shrink alike as much as it
        takes: whichever first leaves no more than :data:`SLACK` (the last, where there was
        :data:`WASTE`: than half of that), and then what moves least. All of it depends on the
        present plan alone, not on the wishes: where this ends, it ends for its own keeps, too.
        """
        ranks, left = ranks.copy(), budget.slack(self._widths(ranks))
        rows = np.flatnonzero(left > SLACK)
        while rows.size:
            waiting = rows
            for all_shrink, little in ((True, True), (False, True), (True, False)):
                owners, least = self._offers(ranks[waiting], all_shrink=all_shrink, little=little)
                owners = waiting[owners]
                plans, owners = self._shrunk(ranks[owners], least, owners, budget)
                slack = np.maximum(budget.slack(self._widths(plans)), SLACK)
                moved = np.abs(self._widths(plans) - self._widths(ranks[owners])) / self._dense
                order = np.lexsort((moved.sum(axis=1), slack, owners))
                most = SLACK if little else np.where(left[owners] > WASTE, WASTE / 2, SLACK)
                order = order[(slack <= most)[order]]
                served, best = np.unique(owners[order], return_index=True)
                ranks[served] = plans[order[best]]
                waiting = np.setdiff1d(waiting, served)
            left[rows] = budget.slack(self._widths(ranks[rows]))
            rows = np.setdiff1d(rows[left[rows] > SLACK], waiting)
        return ranks

    def _offers(
        self, ranks: np.ndarray, *, all_shrink: bool, little: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Whose offer it is, (m,), and the ranks to which it lets others shrink, (m, units)."""
        lowest = np.zeros_like(ranks)
        if little:  # a step, or a tenth where that is more
            tenth = self._ranks(0.9 * self._widths(ranks))
            lowest = np.maximum(np.minimum(tenth, ranks - 1), 0)
        growing = ranks < self._last
        if all_shrink:
            owners, grown = np.nonzero(growing)
            least = lowest[owners]
        else:
            apart = ~np.eye(len(self._unit), dtype=bool)
            owners, grown, shrunk = np.nonzero(growing[:, :, None] & apart)
            least = ranks[owners]
            least[np.arange(len(owners)), shrunk] = lowest[owners, shrunk]
        least[np.arange(len(owners)), grown] = ranks[owners, grown] + 1
        return owners, least

    def _shrunk(
        self, ranks: np.ndarray, least: np.ndarray, owners: np.ndarray, budget: Budget
    ) -> tuple[np.ndarray, np.ndarray]:
        """``ranks`` scaled down until they fit, at ``least`` or up; those that can, and whose."""
        fits = budget.slack(self._widths(least)) >= 0
        ranks, least, owners = ranks[fits], least[fits], owners[fits]
        widths = self._widths(ranks)
        scale = self._largest_scale(widths, least, np.ones(len(widths)), budget)
        shrunk = np.maximum(self._ranks(scale[:, None] * widths), least)
        return self._fill(shrunk, widths, budget), owners
