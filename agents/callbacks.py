"""What watches a search: TensorBoard and the record of episodes.

Each is called with every finished :class:`~amc.envs.pruning.Episode`; steps are episode numbers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch.utils.tensorboard.summary import hparams
from torch.utils.tensorboard.writer import SummaryWriter

from amc.envs.pruning import Episode
from amc.figures import plan_figure

if TYPE_CHECKING:
    from amc.units import Unit

Diagnostics = Callable[[], Mapping[str, float]]
_AVERAGE_MOMENTUM = 0.9


class JsonlRecorder:
    """Appends one JSON line an episode, flushed at once, so that a killed run loses nothing.

    Not synced to the disk: that takes milliseconds, and what a power failure costs is evaluated
    again when the search is resumed.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def __call__(self, episode: Episode) -> None:
        """Record ``episode``."""
        self._file.write(json.dumps(episode.to_json()) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardMonitor:
    """Writes scalars in groups each episode, and the best plan whenever it improves.

    Args:
        folder: where the event file goes.
        units: names and dense widths of what is pruned.
        diagnostics: the agent's numbers by tag (``exploration/std``, ``losses/critic``, ...).
        settings: hyperparameters, written with the best reward by :meth:`close`.
        resumed_episodes: how many episodes an interrupted run has written already. They are taken
            note of and not written again; what the run wrote beyond them is hidden.
    """

    def __init__(
        self,
        folder: Path,
        units: Sequence[Unit],
        diagnostics: Diagnostics = dict,
        settings: Mapping[str, bool | float | int | str] | None = None,
        resumed_episodes: int = 0,
    ) -> None:
        purge_step = resumed_episodes + 1 if resumed_episodes else None
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)
        self._resumed_episodes = resumed_episodes
        self._names = [unit.name for unit in units]
        self._dense = [unit.width for unit in units]
        self._diagnostics = diagnostics
        self._settings = dict(settings or {})
        self._best: Episode | None = None
        self._average: float | None = None

    def __call__(self, episode: Episode) -> None:
        """Write what ``episode`` brought."""
        if self._average is None:
            self._average = episode.reward
        self._average += (1 - _AVERAGE_MOMENTUM) * (episode.reward - self._average)
        improved = self._best is None or episode.reward > self._best.reward
        if self._best is None or improved:
            self._best = episode
        if episode.number <= self._resumed_episodes:
            return
        for tag, value in self._scalars(episode, self._best).items():
            self._writer.add_scalar(tag, value, episode.number)
        if improved:
            figure = plan_figure(self._names, self._dense, episode.widths, _headline(episode))
            self._writer.add_figure("best/plan", figure, episode.number, close=False)
            self._writer.add_text("best/plan", self.table(episode), episode.number)

    def close(self) -> None:
        """Write the hyperparameters with the best reward and close the event file."""
        if self._best is not None and self._settings:
            # SummaryWriter.add_hparams would open a second writer in a sub-folder of its own.
            metrics = {"best/reward": self._best.reward}
            writer = self._writer._get_file_writer()
            for summary in hparams(self._settings, metrics):
                writer.add_summary(summary)
        self._writer.close()

    def table(self, episode: Episode) -> str:
        """The plan as a Markdown table."""
        lines = [
            f"**{_headline(episode)}**",
            "",
            "| unit | dense | kept | keep |",
            "|---|---|---|---|",
        ]
        rows = zip(self._names, self._dense, episode.widths, episode.executed_keep, strict=True)
        lines += [f"| {name} | {dense} | {kept} | {keep:.2f} |" for name, dense, kept, keep in rows]
        return "\n".join(lines)

    def _scalars(self, episode: Episode, best: Episode) -> dict[str, float]:
        assert self._average is not None
        scalars = {
            "reward/episode": episode.reward,
            "reward/moving_average": self._average,
            "best/reward": best.reward,
            "cost/kept_macs": episode.kept_macs,
            "cost/kept_params": episode.kept_params,
        }
        if "accuracy" in best.quality:
            scalars["best/accuracy"] = best.quality["accuracy"]
        scalars |= {f"quality/{name}": value for name, value in episode.quality.items()}
        scalars |= {f"seconds/{phase}": value for phase, value in episode.seconds.items()}
        keeps = zip(self._names, episode.executed_keep, strict=True)
        scalars |= {f"keep/{name}": keep for name, keep in keeps}
        return scalars | dict(self._diagnostics())


def _headline(episode: Episode) -> str:
    accuracy = episode.quality.get("accuracy")
    middle = "" if accuracy is None else f", accuracy {accuracy:.3f}"
    return (
        f"Episode {episode.number}: reward {episode.reward:.4f}{middle},"
        f" {episode.kept_macs:.1%} of the MACs"
    )
