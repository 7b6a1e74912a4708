"""The pictures of a search in TensorBoard, drawn as it goes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch.utils.tensorboard.writer import SummaryWriter

from amc.records.episode import Episode
from amc.reporting import figures
from amc.reporting.tradeoff import draw_tradeoff
from amc.tracing.units import dense_widths
from amc.utils import formatting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from amc.tracing.units import Unit

_EVERY_EPISODES = 25
_DRAWING_SHARE = 0.01
"""Of the search's own time, the last pictures included."""


class Pictures:
    """Draws the best plan when it changes, and all episodes now and then.

    A picture takes 0.05 to 0.2 s. It waits until this, and drawing once more at the end, is no more
    than 1% of the time that the search has taken; but the first plan and the last pictures are
    drawn in any case. The step of a picture is the episode after which it was drawn. ``cost`` is
    the quantity that the budget bounds.
    """

    def __init__(self, units: Sequence[Unit], cost: str) -> None:
        self._cost = cost
        self._names = [unit.name for unit in units]
        self._dense = dense_widths(units)
        self._plan: Episode | None = None
        """The episode whose plan was drawn last."""
        self._episodes = 0
        """How many there were when all of them were drawn last."""
        self._search_seconds = self._drawing_seconds = self._last_drawing_seconds = 0.0

    def update(self, writer: SummaryWriter, episodes: Sequence[Episode], best: Episode) -> None:
        """Draw what is due after the last of ``episodes``, if there is time for it."""
        self._search_seconds += sum(episodes[-1].seconds.values())
        expected_seconds = self._drawing_seconds + 2 * self._last_drawing_seconds
        if expected_seconds <= _DRAWING_SHARE * self._search_seconds:
            self._draw(writer, episodes, best, _EVERY_EPISODES)

    def finish(self, writer: SummaryWriter, episodes: Sequence[Episode], best: Episode) -> None:
        """Draw what has changed since it was drawn last."""
        self._draw(writer, episodes, best, 1)

    def _draw(
        self, writer: SummaryWriter, episodes: Sequence[Episode], best: Episode, every: int
    ) -> None:
        started = time.perf_counter()
        drawn: dict[str, Figure] = {}
        if best is not self._plan:
            self._plan = best
            drawn["best/plan"] = self._plan_figure(best)
        if len(episodes) - self._episodes >= every:
            self._episodes = len(episodes)
            drawn["episodes/reward"] = figures.progress_figure(
                [episode.reward for episode in episodes], "Reward of every episode, and the best"
            )
            drawn["episodes/tradeoff"] = draw_tradeoff(
                episodes,
                episodes.index(best),
                self._cost,
                title="Cost against quality of every episode",
                colorbar=True,
            ).figure
        for tag, figure in drawn.items():
            writer.add_figure(tag, figure, episodes[-1].number, close=False)
        if drawn:
            self._last_drawing_seconds = time.perf_counter() - started
            self._drawing_seconds += self._last_drawing_seconds

    def _plan_figure(self, best: Episode) -> Figure:
        title = f"Episode {best.number}: reward {formatting.number(best.reward)}"
        # Compact: TensorBoard's cards are narrow.
        return figures.plan_figure(self._names, self._dense, best.widths, title, compact=True)
