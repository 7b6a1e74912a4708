"""The picture of what plans cost against how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from amc.cost import quantities
from amc.records.episode import Episode
from amc.reporting import figures


class Tradeoff(NamedTuple):
    """The picture, and the quantity that the budget holds all plans to."""

    figure: Figure
    pinned: str
    low: float
    """Least kept fraction of it."""
    high: float


def draw_tradeoff(
    episodes: Sequence[Episode], best: int, *, title: str = "", colorbar: bool = False
) -> Tradeoff:
    """All episodes; ``best`` is the index of the one that is marked.

    A budget pins its own quantity to one value: the cost that tells plans apart is drawn.
    """
    kept = {name: [episode.kept[name] for episode in episodes] for name in episodes[0].kept}
    pinned, *_, free = sorted(kept, key=lambda name: max(kept[name]) - min(kept[name]))
    scored = all("accuracy" in episode.quality for episode in episodes)
    figure = figures.tradeoff_figure(
        kept[free],
        [e.quality["accuracy"] if scored else e.reward for e in episodes],
        best,
        cost_label=f"{quantities.word(free)} kept",
        quality_label="search-val accuracy" if scored else "reward",
        title=title,
        colorbar=colorbar,
    )
    return Tradeoff(figure, pinned, min(kept[pinned]), max(kept[pinned]))
