"""What watches a search: TensorBoard and the record of episodes.

Each is called with every finished :class:`~amc.envs.pruning.Episode`; steps are episode numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.tensorboard.writer import SummaryWriter

from amc.cost import quantities
from amc.records.episode import Episode
from amc.reporting.tensorboard.layout import Settings, write_end, write_layout, write_settings
from amc.reporting.tensorboard.pictures import Pictures
from amc.reporting.tensorboard.sb3_names import sb3_scalars
from amc.tracing.units import dense_widths

if TYPE_CHECKING:
    from amc.tracing.units import Unit

Diagnostics = Callable[[], Mapping[str, float]]
_AVERAGE_MOMENTUM = 0.9


class TensorBoardMonitor:
    """Writes scalars in groups each episode, and the best plan whenever it improves.

    Args:
        folder: where the event files go.
        units: names and dense widths of what is pruned.
        diagnostics: the agent's numbers by tag (``exploration/std``, ``losses/critic``, ...).
        settings: what the run is compared by, written at once: a killed run is in the table, too.
        resumed_episodes: how many episodes an earlier monitor has written to ``folder``. This one
            is to be called for them again, in order, and writes nothing; what the earlier one wrote
            after them is dropped, so that every curve goes on from there. A search that has no
            other episode drops nothing: a finetuning may have been written after it.
        cost: the quantity to show, of those that plans cost: what the budget bounds.
    """

    def __init__(
        self,
        folder: Path,
        units: Sequence[Unit],
        diagnostics: Diagnostics = dict,
        settings: Settings | None = None,
        *,
        resumed_episodes: int = 0,
        cost: str = "macs",
    ) -> None:
        self._folder = folder
        self._settings = settings
        self._names = [unit.name for unit in units]
        self._dense = dense_widths(units)
        self._diagnostics = diagnostics
        self._resumed_episodes = resumed_episodes
        self._cost = cost
        self._pictures = Pictures(units, cost)
        self._seconds = 0.0
        """What the episodes have taken together, as they recorded it: goes on where a search is
        resumed. Of several workers that is more than the time that has passed."""
        self._episodes: list[Episode] = []
        self._best: Episode | None = None
        self._told: Episode | None = None
        """The best plan that was last written as text."""
        self._average: float | None = None
        # A resumed search opens its file, which drops what follows, with its first new episode.
        self._writer = self._open() if not resumed_episodes else None

    def __call__(self, episode: Episode) -> None:
        """Write what ``episode`` brought."""
        self._episodes.append(episode)
        self._seconds += sum(episode.seconds.values())
        if self._average is None:
            self._average = episode.reward
        self._average += (1 - _AVERAGE_MOMENTUM) * (episode.reward - self._average)
        if self._best is None or episode.reward > self._best.reward:
            self._best = episode
        if len(self._episodes) <= self._resumed_episodes:
            return
        if self._writer is None:
            self._writer = self._open()
        for tag, value in self._scalars(episode, self._best, self._average).items():
            self._writer.add_scalar(tag, value, episode.number)
        # After a resume also the best of the earlier episodes, in place of what was dropped.
        if self._best is not self._told:
            self._told = self._best
            self._writer.add_text("best/plan", self.table(self._best), episode.number)
        self._pictures.update(self._writer, self._episodes, self._best)
        self._writer.flush()

    def close(self) -> None:
        """Bring the pictures up to date, mark the run as ended and close the event file."""
        writer = self._writer or SummaryWriter(str(self._folder))  # which drops nothing
        if self._best is not None and len(self._episodes) > self._resumed_episodes:
            self._pictures.finish(writer, self._episodes, self._best)
        if self._settings:
            write_end(writer)
        writer.close()

    def _open(self) -> SummaryWriter:
        writer = SummaryWriter(str(self._folder), purge_step=self._resumed_episodes + 1)
        write_layout(writer, self._names)
        if self._settings:
            write_settings(writer, self._settings)
        writer.flush()
        return writer

    def table(self, episode: Episode) -> str:
        """The plan as a Markdown table."""
        lines = [
            f"**{self._headline(episode)}**",
            "",
            "| unit | dense | kept | keep |",
            "|---|---|---|---|",
        ]
        rows = zip(self._names, self._dense, episode.widths, episode.executed_keep, strict=True)
        lines += [f"| {name} | {dense} | {kept} | {keep:.2f} |" for name, dense, kept, keep in rows]
        return "\n".join(lines)

    def _scalars(self, episode: Episode, best: Episode, average: float) -> dict[str, float]:
        scalars = {
            "reward/episode": episode.reward,
            "reward/moving_average": average,
            "best/reward": best.reward,
        }
        for name in dict.fromkeys(("macs", self._cost)):
            scalars[f"best/kept_{name.removesuffix('_us')}"] = best.kept[name]
        for name, kept in episode.kept.items():
            scalars[f"cost/kept_{name.removesuffix('_us')}"] = kept
        if "accuracy" in best.quality:
            scalars["best/accuracy"] = best.quality["accuracy"]
        scalars |= {f"quality/{name}": value for name, value in episode.quality.items()}
        scalars |= {f"seconds/{phase}": value for phase, value in episode.seconds.items()}
        keeps = zip(self._names, episode.executed_keep, strict=True)
        scalars |= {f"keep/{name}": keep for name, keep in keeps}
        diagnostics = self._diagnostics()
        return scalars | sb3_scalars(self._episodes, self._seconds, diagnostics) | dict(diagnostics)

    def _headline(self, episode: Episode) -> str:
        accuracy = episode.quality.get("accuracy")
        middle = "" if accuracy is None else f", accuracy {accuracy:.3f}"
        return (
            f"Episode {episode.number}: reward {episode.reward:.4f}{middle},"
            f" {episode.kept[self._cost]:.1%} of the {quantities.word(self._cost)}"
        )
