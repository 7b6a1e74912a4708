"""What one search is given: the task, the settings, and what is recorded of it already."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from amc.config import SearchConfig
from amc.latency.device import OnStage
from amc.models.weights import weights_sha256
from amc.pipeline.resume import RecordedRun
from amc.records.episode import Episode
from amc.records.run_folder import Inputs, RunFolder
from amc.task import Task

OnEpisode = Callable[[Episode, Episode], None]
"""Called after each episode with it and the best so far."""


@dataclass(frozen=True)
class Listener:
    """Who is told how a search goes on."""

    on_unit: Callable[[int, int], None] | None = None
    """Units that are proven, and their number."""
    on_stage: OnStage | None = None
    """What else is measured before the first episode: its name, how far, how many."""
    on_episode: OnEpisode | None = None
    """Each episode, and the best so far."""
    on_note: Callable[[str], None] = warnings.warn
    """What the user should know."""


@dataclass(frozen=True, eq=False)
class Assignment:
    """One network's search."""

    task: Task
    config: SearchConfig
    inputs: Inputs
    """What a run of the task must be given again when it is resumed."""
    recorded: RecordedRun | None = None
    """The run that goes on; None where the search begins."""

    def configured(self, config: SearchConfig) -> Assignment:
        """The same with other settings."""
        return replace(self, config=config)


def prepared(config: SearchConfig, task: Task) -> SearchConfig:
    """``config`` with the preparation of the images that the task found, for the run to record."""
    known = config.data is not None and task.data is not None
    return config.model_copy(update={"data": task.data}) if known else config


def inputs_of(task: Task) -> Inputs:
    """What identifies the network and the images of ``task``."""
    data_sha256 = task.data_sha256() if task.data_sha256 else None
    return Inputs(weights_sha256=weights_sha256(task.model), data_sha256=data_sha256)


def resumed(stack: contextlib.ExitStack, task: Task, run: Path, episodes: int | None) -> Assignment:
    """The run in this folder, which goes on with ``task``; claimed until ``stack`` ends.

    Raises what :meth:`RunFolder.claimed` and :meth:`RecordedRun.load` raise.
    """
    folder = RunFolder.open(run)
    stack.enter_context(folder.claimed())
    inputs = inputs_of(task)
    recorded = RecordedRun.load(folder, inputs, episodes)
    return Assignment(task, recorded.config, inputs, recorded)
