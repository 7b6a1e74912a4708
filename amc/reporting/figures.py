"""The pictures of a run, as matplotlib figures: for the report, and for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from amc.reporting.figure_style import ACCENT, HALO, MUTED, SECOND, SOFT, styled
from amc.reporting.robust_axes import leave_out_outliers
from amc.utils import formatting

_WIDE, NARROW = 12.0, 5.2
"""Inches; a picture's text has the same size in a column of the page, and on a phone."""

_MOST_UPRIGHT = 30
"""Units that fit side by side with readable names."""

_MOST_LETTERS = 130
"""Letters that fit side by side below the wide picture."""

_AGENTS = (
    ACCENT,
    SECOND,
    "#5b6fb5",
    "#b5487f",
    "#8a7a2f",
    "#4f9bc7",
    "#7d5aa6",
    "#5f6b73",
    "#a65a3c",
    "#3f7d4e",
)
"""Colours of lines that are told apart."""

_AROUND = 0.05
"""Shown to both sides of a cost that a budget pins, so that it looks pinned."""

PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.4g}%")


@styled
def plan_figure(
    names: Sequence[str],
    dense_widths: Sequence[int],
    kept_widths: Sequence[int],
    title: str = "",
    *,
    compact: bool = False,
) -> Figure:
    """Kept against dense width of every unit, with the kept percentage.

    One entry per unit, in forward order. Upright bars; lying ones where there are more than 30
    units, or with ``compact``, for a narrow screen.
    """
    lying = compact or len(names) > _MOST_UPRIGHT
    figure, axes = _axes(
        title,
        NARROW if compact else _WIDE,
        0.9 + 0.21 * len(names) if lying else 3.8,
    )
    places = np.arange(len(names))
    draw = axes.barh if lying else axes.bar
    draw(places, dense_widths, 0.72, color=SOFT, label="dense")
    draw(places, kept_widths, 0.72, color=ACCENT, label="kept")
    for place, dense, kept in zip(places, dense_widths, kept_widths, strict=True):
        axes.annotate(
            f"{kept / dense:.0%}",
            (dense, place) if lying else (place, dense),
            (4, 0) if lying else (0, 3),
            textcoords="offset points",
            fontsize=8.5 if lying else 9.5,
            ha="left" if lying else "center",
            va="center_baseline" if lying else "bottom",
        )
    label = _label_lying if lying else _label_upright
    label(axes, [_shorten(name) for name in names], 1.1 * max(dense_widths, default=1))
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside upper right", ncols=2, borderpad=0
    )
    return figure


@styled
def progress_figure(rewards: Sequence[float], title: str = "") -> Figure:
    """Every episode's reward (dots) and the best so far (line), against episodes from 1.

    Rewards that would flatten the rest lie outside, as marks at the edge; the best one never does.
    """
    figure, axes = _axes(title)
    numbers = np.arange(1, len(rewards) + 1)
    best = np.maximum.accumulate(np.asarray(rewards, dtype=np.float64))
    axes.plot(numbers, rewards, "o", color=MUTED, alpha=0.45, ms=3.5, mew=0, label="episode")
    axes.plot(numbers, best, color=ACCENT, drawstyle="steps-post", label="best")
    peak = int(np.argmax(best))
    axes.plot(numbers[peak], best[peak], "o", color=SECOND, ms=7, mew=0, label="peak")
    name_point(axes, numbers[peak], best[peak], formatting.number(best[peak]), above=True)
    axes.set(xlabel="episode", ylabel="reward")
    count_along_x(axes, len(rewards))
    axes.margins(y=0.12)
    leave_out_outliers(axes, numbers, rewards, ((), best[-1:]))
    return figure


@styled
def tradeoff_figure(
    costs: Mapping[str, Sequence[float]],
    quality: Sequence[float],
    best: int,
    *,
    quality_label: str,
    title: str = "",
    colorbar: bool = False,
) -> Figure:
    """Quality against kept costs (fractions), a dot an episode, later ones stronger.

    ``costs`` are by label: a panel each, the last one wide. ``best`` is the index of the episode to
    mark. A quality in [0, 1] is shown in percent. With ``colorbar``, a scale says which shade is
    which episode, counted from 1. Episodes that would flatten the rest lie outside, as marks at the
    edge.
    """
    figure = Figure((NARROW, 3.1), layout="constrained")
    ratios = [1] * (len(costs) - 1) + [3]
    (panels,) = figure.subplots(1, len(costs), sharey=True, squeeze=False, width_ratios=ratios)
    *narrow, wide = panels
    panels[0].set(title=title, ylabel=quality_label)
    shades = to_rgba_array([ACCENT] * len(quality), np.linspace(0.2, 0.85, len(quality)))
    for axes, (label, kept) in zip(panels, costs.items(), strict=True):
        axes.scatter(kept, quality, s=18, c=shades, lw=0, label="episode")
        axes.plot(kept[best], quality[best], "o", color=SECOND, ms=7.5, mew=0, label="best")
        axes.set_xlabel(label)
        axes.xaxis.set_major_formatter(PERCENT)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.margins(0.06, 0.1)
    for axes in narrow:
        low, high = axes.dataLim.intervalx
        axes.set_xlim(low - _AROUND, high + _AROUND)
        axes.set_xticks([high], [formatting.percent(high)])
    if min(quality) >= 0 and max(quality) <= 1:
        wide.yaxis.set_major_formatter(PERCENT)
    kept = costs[wide.get_xlabel()]
    leave_out_outliers(wide, kept, quality, ([kept[best]], [max(quality), quality[best]]))
    name_point(wide, kept[best], quality[best], "best plan", above=True)
    if colorbar:
        scale = ScalarMappable(Normalize(1, max(2, len(kept))), ListedColormap(shades))
        bar = figure.colorbar(scale, ax=list(panels), label="episode", aspect=30, pad=0.02)
        bar.outline.set_visible(False)
    return figure


@styled
def front_figure(
    episodes: tuple[Sequence[float], Sequence[float]],
    front: tuple[Sequence[float], Sequence[float]],
    dense_quality: float | None,
    *,
    cost_label: str,
    quality_label: str,
    title: str = "",
) -> Figure:
    """Kept cost (a fraction) and quality of all episodes, pale; of the front as a line.

    The dense network is a star at cost 1, where its quality is known. A quality in [0, 1] is shown
    in percent.
    """
    figure, axes = _axes(title)
    axes.plot(*episodes, "o", color=MUTED, alpha=0.35, ms=3.5, mew=0, label="episode")
    axes.plot(*front, "o-", color=ACCENT, ms=4.5, mew=0, label="front")
    if dense_quality is not None:
        axes.plot(1.0, dense_quality, "*", color=SECOND, ms=12, mew=0, label="dense")
    axes.set(xlabel=cost_label, ylabel=quality_label)
    axes.xaxis.set_major_formatter(PERCENT)
    shown = [*episodes[1], dense_quality or 0.0]
    if min(shown) >= 0 and max(shown) <= 1:
        axes.yaxis.set_major_formatter(PERCENT)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.margins(0.06, 0.1)
    kept, quality = front
    star = ([1.0], [dense_quality]) if dense_quality is not None else ([], [])
    leave_out_outliers(axes, *episodes, ([*kept, *star[0]], [*quality, *star[1]]))
    if dense_quality is not None:
        name_point(axes, 1.0, dense_quality, "dense", above=False)
    return figure


@styled
def seconds_figure(seconds: Mapping[str, float], title: str = "") -> Figure:
    """Wall time of each phase, longest part first as given."""
    figure, axes = _axes(title, height=0.55 + 0.46 * len(seconds))
    places = np.arange(len(seconds))
    axes.barh(places, list(seconds.values()), 0.55, color=ACCENT)
    for place, value in zip(places, seconds.values(), strict=True):
        axes.annotate(
            formatting.duration(value),
            (value, place),
            (5, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(places, list(seconds))
    axes.set_xticks([])
    axes.set_ylim(len(seconds) - 0.5, -0.5)
    axes.set_xlim(0, 1.3 * max(seconds.values(), default=1.0) or 1.0)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    return figure


@styled
def comparison_figure(curves: Mapping[str, np.ndarray], quality: str, title: str = "") -> Figure:
    """The best so far against evaluated plans: median of the seeds, a band for their middle half.

    ``curves`` holds (seeds, evaluations) for each agent, the first one drawn strongest; where there
    is one evaluation only, the plan is a dotted line. ``quality`` names the axis. The axis leaves
    out how bad the very first plans were.
    """
    figure, axes = _axes(title, width=8.0, height=4.2)
    longest = max(values.shape[1] for values in curves.values())
    for number, (agent, values) in enumerate(curves.items()):
        colour = _AGENTS[number % len(_AGENTS)]
        median = np.median(values, axis=0)
        if values.shape[1] == 1:
            axes.axhline(median[0], color=colour, ls=":", label=agent)
            continue
        steps = np.arange(1, values.shape[1] + 1)
        axes.plot(steps, median, color=colour, lw=1.4 if number else 2.4, label=agent, zorder=3)
        if len(values) > 1:
            low, high = np.quantile(values, (0.25, 0.75), axis=0)
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="evaluated plans", ylabel=quality)
    count_along_x(axes, longest)
    early = max(1, longest // 15)
    shown = np.concatenate(
        [values[:, min(early, values.shape[1]) - 1 :].ravel() for values in curves.values()]
    )
    margin = 0.05 * (float(np.ptp(shown)) or 1.0)
    axes.set_ylim(shown.min() - margin, shown.max() + margin)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
    return figure


def _axes(title: str, width: float = NARROW, height: float = 3.1) -> tuple[Figure, Axes]:
    figure = Figure((width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    return figure, axes


def _label_upright(axes: Axes, names: Sequence[str], height: float) -> None:
    axes.set_xticks(np.arange(len(names)), names)
    if len(names) * max(map(len, names), default=0) > _MOST_LETTERS:
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylim(0, height)
    axes.set_ylabel("width")


def _label_lying(axes: Axes, names: Sequence[str], length: float) -> None:
    axes.set_yticks(np.arange(len(names)), names, fontsize=8.5)
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first unit on top
    axes.set_xlim(0, length)
    axes.set_xlabel("width")
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x")
    axes.spines["bottom"].set_visible(False)


def count_along_x(axes: Axes, most: int) -> None:
    """Whole numbers from 1 to ``most``, also where there is only one."""
    axes.set_xlim(1 - max(0.5, 0.04 * most), most + max(0.5, 0.04 * most))
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))


def name_point(axes: Axes, x: float, y: float, label: str, *, above: bool) -> None:
    """Write ``label`` at a point, on the side where the picture has room."""
    low, high = axes.get_xlim()
    left = x > (low + high) / 2
    axes.annotate(
        label,
        (x, y),
        (4 if left else -4, 7 if above else -19),
        textcoords="offset points",
        ha="right" if left else "left",
        color=SECOND,
        fontweight="bold",
        gid=HALO,
    )


def _shorten(name: str, most: int = 30) -> str:
    """A long module path keeps its beginning, which says where, and its end, which says what."""
    return name if len(name) <= most else f"{name[: most - 12]}…{name[-11:]}"
