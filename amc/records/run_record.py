"""Everything that a run's folder says about the run, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Self

from amc.config import SearchConfig
from amc.errors import PlanError
from amc.pruning.plan import Plan
from amc.records.episode import Episode, read_episodes
from amc.records.pareto_front import Front, merit
from amc.records.results import Confirmation, Results
from amc.records.run_folder import RunFolder


@dataclass(frozen=True)
class Record:
    """A run as it stands: finished, interrupted, or hardly begun."""

    path: Path
    config: SearchConfig
    versions: dict[str, str]
    started: date
    episodes: tuple[Episode, ...]
    plan: Plan | None
    """None before the first episode has ended."""
    front: Front | None
    """None where there is none: under one budget, or before the first episode has ended."""
    results: Results | None
    """None before the plan has been applied and measured."""
    confirmation: Confirmation | None = None
    """The plan's latency as it was measured; None where latency had no part in the search."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the folder of a run.

        Raises :class:`~amc.errors.RunError` where ``path`` is not one or a record is damaged,
        :class:`~amc.errors.ConfigError` for settings that do not parse, and
        :class:`~amc.errors.PlanError` where the plan is damaged, or gone though there are episodes.
        """
        folder = RunFolder.open(path)
        # A search that was stopped before its first episode ended has neither of the two.
        episodes = read_episodes(folder.episodes) if folder.episodes.exists() else ()
        if episodes and not folder.plan.exists():
            raise PlanError(
                f"{folder.plan}: no such file, though {len(episodes)} episodes are recorded; "
                f"put it back, or let it be written again: amc search --resume {path}"
            )
        return cls(
            path=path,
            config=folder.load_config(),
            versions=folder.versions(),
            started=date.fromtimestamp(folder.config.stat().st_mtime),
            episodes=episodes,
            plan=Plan.load(folder.plan) if folder.plan.exists() else None,
            front=Front.load(folder.front) if folder.front.exists() else None,
            results=Results.load(folder.results) if folder.results.exists() else None,
            confirmation=Confirmation.load(folder.confirmation)
            if folder.confirmation.exists()
            else None,
        )

    @property
    def network(self) -> str:
        """What was pruned, in a word."""
        return self.config.model.spec if self.config.model else "a network from Python"

    @property
    def best(self) -> int:
        """Index of the episode whose plan is ``plan.json``; the best one where none is."""

        def rank(index: int) -> tuple[bool, bool, float]:
            episode = self.episodes[index]
            chosen = self.plan is not None and episode.widths == self.plan.widths()
            return (chosen, *merit(episode, self.config))

        return max(range(len(self.episodes)), key=rank)
