"""The picture of what plans cost against how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.figure import Figure

from amc.cost import quantities
from amc.records.episode import Episode
from amc.reporting import figures

_APART = 0.02
"""Kept fractions that differ by less do not tell plans apart."""


class Tradeoff(NamedTuple):
    """The picture, and the kept fractions of the quantity that the budget bounds."""

    figure: Figure
    low: float
    high: float


def draw_tradeoff(
    episodes: Sequence[Episode],
    best: int,
    bounded: str,
    *,
    title: str = "",
    colorbar: bool = False,
) -> Tradeoff:
    """All episodes by cost and quality; ``best`` is the index of the one that is marked.

    ``bounded`` is the quantity that the budget bounds (:attr:`amc.config.SearchConfig.costs`). A
    budget may pin it to one value; the cost that then tells plans apart is drawn beside it.
    """
    kept = {name: [episode.kept[name] for episode in episodes] for name in episodes[0].kept}
    shown = [bounded if bounded in kept else next(iter(kept))]
    low, high = min(kept[shown[0]]), max(kept[shown[0]])
    if high - low < _APART and len(kept) > 1:
        others = kept.keys() - set(shown)
        shown.append(max(sorted(others), key=lambda name: max(kept[name]) - min(kept[name])))
    scored = all("accuracy" in episode.quality for episode in episodes)
    figure = figures.tradeoff_figure(
        {f"{quantities.word(name)} kept": kept[name] for name in shown},
        [e.quality["accuracy"] if scored else e.reward for e in episodes],
        best,
        quality_label="search-val accuracy" if scored else "reward",
        title=title,
        colorbar=colorbar,
    )
    return Tradeoff(figure, low, high)
