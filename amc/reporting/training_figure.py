"""The picture of a finetuning: accuracies after each epoch, and the learning rate below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from amc.reporting.figure_style import ACCENT, MUTED, SECOND, SOFT, styled
from amc.reporting.figures import NARROW, PERCENT, count_along_x, name_point
from amc.reporting.robust_axes import robust_range
from amc.task import Epoch

_BLUE = "#5b6fb5"

_LINES = (
    # what, label, colour, dashes: what was trained is drawn through, its average dashed
    ("train_accuracy", "train", SOFT, "-"),
    ("search_val_accuracy", "search-val", _BLUE, "-"),
    ("ema_accuracy", "search-val, average", _BLUE, (0, (3, 2))),
    ("test_accuracy", "test", ACCENT, "-"),
)


@styled
def finetune_figure(epochs: Sequence[Epoch], dense: float | None, title: str = "") -> Figure:
    """Accuracies after each epoch, as far as they are known, and the dense network's on test images
    as a line; the learning rate in a small panel below.

    The last point of the most important line has its number: test, where it is known.
    """
    figure = Figure((NARROW, 3.9), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    axes.set(title=title, ylabel="accuracy")
    drawn = [one for key, *look in _LINES if (one := _line(axes, epochs, key, *look))]
    if dense is not None:
        axes.axhline(dense, color=MUTED, lw=1.1, ls=(0, (4, 3)), label=f"dense {dense:.1%}")
    if drawn:
        numbers, values = drawn[-1]
        axes.plot(numbers[-1], values[-1], "o", color=SECOND, ms=7, mew=0, label="_last")
        always = [values[-1], *([dense] if dense is not None else [])]
        low, high = robust_range([value for _, line in drawn for value in line], always)
        margin = 0.15 * ((high - low) or 0.1)
        axes.set_ylim(low - margin, high + margin)
    if drawn or dense is not None:
        figure.legend(loc="outside upper left", ncols=3, borderpad=0, fontsize=8.5)
    rates = [epoch.number for epoch in epochs], [epoch.lr for epoch in epochs]
    below.plot(*rates, "o-", color=MUTED, ms=2.5, mew=0)
    below.set(xlabel="epoch", ylabel="lr")
    below.yaxis.set_major_locator(MaxNLocator(2))
    below.set_ylim(0)
    count_along_x(below, max(epoch.number for epoch in epochs))
    axes.yaxis.set_major_formatter(PERCENT)
    if drawn:
        name_point(axes, numbers[-1], values[-1], f"{values[-1]:.1%}", above=False)
    return figure


def _line(
    axes: Axes, epochs: Sequence[Epoch], key: str, label: str, colour: str, dashes: Any
) -> tuple[list[int], list[float]] | None:
    """Draws what is known of ``key``, and returns it; None where nothing is."""
    known = [(epoch.number, getattr(epoch, key)) for epoch in epochs]
    numbers = [number for number, value in known if value is not None]
    values = [float(value) for _, value in known if value is not None]
    if not values:
        return None
    axes.plot(numbers, values, "o", color=colour, ls=dashes, ms=3, mew=0, label=label)
    return numbers, values
