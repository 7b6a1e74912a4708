"""Axes that a few far points do not flatten: limits without them, and marks where they would be."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from amc.reporting.figure_style import MUTED

_FENCE = 3.0
"""Interquartile ranges beyond the quartiles from which on a value is far out (Tukey, Exploratory
Data Analysis, 1977)."""

_FLATTENED = 2.0
"""How much longer than the rest's an axis of all values has to be, for values to be left out."""


def robust_range(values: ArrayLike, always: ArrayLike = ()) -> tuple[float, float]:
    """The least and the greatest of ``values`` that a picture should show.

    All of them, unless some are far out and would take at least half of the axis. ``always`` are
    shown in any case. Values that are not finite are never shown.
    """
    required = _finite(always)
    everything = np.concatenate([_finite(values), required])
    if not everything.size:
        return 0.0, 1.0
    inner = everything
    for middle in ((0.25, 0.75), (0.05, 0.95)):  # where most values are equal: the wider middle
        low, high = np.quantile(everything, middle)
        if high > low:
            reach = _FENCE * (high - low)
            inner = everything[(everything >= low - reach) & (everything <= high + reach)]
            break
    shown = np.concatenate([inner, required])
    least, most = float(shown.min()), float(shown.max())
    if most == least or np.ptp(everything) < _FLATTENED * (most - least):
        return float(everything.min()), float(everything.max())
    return least, most


def leave_out_outliers(
    axes: Axes, x: ArrayLike, y: ArrayLike, always: tuple[ArrayLike, ArrayLike]
) -> None:
    """Limit ``axes`` to the bulk of the points (x, y), and to all points of ``always``.

    Points outside become triangles at the edge, and a note below it counts them. Nothing happens
    where there are none.
    """
    points = np.stack([np.asarray(x, float), np.asarray(y, float)])
    edges = [np.array(axes.get_xlim()), np.array(axes.get_ylim())]
    for i, margin in enumerate((axes.get_xmargin(), axes.get_ymargin())):
        low, high = robust_range(points[i], always[i])
        if low > np.nanmin(points[i]) or high < np.nanmax(points[i]):
            edges[i] = np.array([low, high]) + margin * (high - low) * np.array([-1, 1])
    lows, highs = (np.array([edge[side] for edge in edges])[:, None] for side in (0, 1))
    below, above = points < lows, points > highs
    outside = (below | above).any(axis=0)
    if not outside.any():
        return
    axes.set(xlim=edges[0], ylim=edges[1])
    at_the_edge = np.clip(points, lows, highs)
    unmarked = outside.copy()
    for side, marker in ((below[1], "v"), (above[1], "^"), (below[0], "<"), (above[0], ">")):
        chosen, unmarked = side & unmarked, unmarked & ~side
        if chosen.any():
            marks = axes.plot(*at_the_edge[:, chosen], marker, color=MUTED, ms=4.5, mew=0)
            marks[0].set(label="outside", clip_on=False, zorder=4)
    note = f"{outside.sum()} of {points.shape[1]} lie outside"
    axes.set_xlabel(f"{axes.get_xlabel()}\n{note}")


def _finite(values: ArrayLike) -> np.ndarray:
    flat: np.ndarray = np.ravel(values).astype(float)
    return np.extract(np.isfinite(flat), flat)
