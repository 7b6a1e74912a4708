"""Progress bars of the command line: what is going on, how far, the best so far, the time left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from amc.records.episode import Episode
from amc.reporting.outcome import measured
from amc.task import Epoch, Step
from amc.utils import formatting


class Bar:
    """One line for each stage, on standard error; silent where ``quiet``."""

    def __init__(self, *, quiet: bool = False, episodes: int | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<11}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _TimeLeft(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=quiet,
        )
        self._lines: dict[str, TaskID] = {}
        self._episodes = episodes

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def unit(self, done: int, total: int) -> None:
        """Units verified so far."""
        self._update("units", done, total)

    def measured(self, name: str, done: int, total: int) -> None:
        """Layers or networks timed, or units halved, so far."""
        self._update(name, done, total)

    def episode(self, episode: Episode, best: Episode) -> None:
        """One more plan was scored."""
        note = f"best reward {best.reward:.4f} (episode {best.number})"
        self._update("episodes", episode.number, self._episodes or episode.number, note)

    def agent(self, name: str, done: int, total: int, note: str) -> None:
        """One of several searchers has evaluated ``done`` of ``total`` plans."""
        self._update(name, done, total, note)

    def stage(self, name: str) -> None:
        """A step without a length begins."""
        self._progress.console.print(name)

    def note(self, text: str) -> None:
        """Something that the user should know."""
        self._progress.console.print(f"note        {text}", highlight=False, soft_wrap=True)

    def step(self, name: str) -> Callable[[Step], None]:
        """A callback for the steps of a training: how many there are, and the loss that was last
        known."""
        note = ""

        def show(step: Step) -> None:
            nonlocal note
            if step.loss is not None:
                note = f"loss {step.loss:.4f}"
            self._update(name, step.done, step.total, note)

        return show

    def epoch(self, epoch: Epoch) -> None:
        """An epoch of finetuning ended."""
        self._progress.console.print(
            f"epoch {epoch.number:<5} {measured(epoch)}", highlight=False, soft_wrap=True
        )

    def _update(self, name: str, done: int, total: int | None, note: str = "") -> None:
        if name not in self._lines:
            self._lines[name] = self._progress.add_task(name, total=total, note=note)
        self._progress.update(self._lines[name], completed=done, total=total, note=note)


class _TimeLeft(ProgressColumn):
    """The time left as people say it: ``12 min 3 s left``."""

    max_refresh = 0.5  # otherwise it flickers

    def render(self, task: Task) -> Text:
        """Empty where nothing is known, and at the end."""
        seconds = task.time_remaining
        if seconds is None or task.finished:
            return Text()
        rough = f"{seconds:.0f} s" if seconds < 59.5 else formatting.duration(seconds)
        return Text(f"{rough} left", style="progress.remaining")
