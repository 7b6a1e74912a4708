"""An interrupted run, played again from its record.

The record is the checkpoint. Every searcher is deterministic given its seed and what it is told, so
a resumed search plays the recorded episodes again, each with its recorded quality in the place of
an evaluation, and then stands where it stood. There is no second copy of the state that could be
damaged or disagree, and nothing in the folder is changed before all of the record is played.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from amc.config import SearchConfig
from amc.envs.rollout import Proposal
from amc.errors import ConfigError, PlanError, RunError
from amc.pruning.plan import Plan
from amc.records.episode import Episode, Log, read_log
from amc.records.run_folder import Inputs, RunFolder, free_name, versions
from amc.utils.atomic_files import replacing


@dataclass(frozen=True)
class RecordedRun:
    """What a run has recorded: read, checked, and not changed before :meth:`mend`."""

    folder: RunFolder
    config: SearchConfig
    """As the search goes on: perhaps with more episodes than it began with."""
    log: Log

    @classmethod
    def load(cls, folder: RunFolder, inputs: Inputs, episodes: int | None = None) -> Self:
        """Read a run that is to go on from the same ``inputs``, up to ``episodes`` in all.

        Raises :class:`ConfigError` where the run has more episodes than that already, and
        :class:`RunError` where it began with other weights or other data.
        """
        config = folder.load_config()
        log = _numbered(read_log(folder.episodes)) if folder.episodes.exists() else Log()
        wanted = config.episodes if episodes is None else episodes
        # What is only replayed has no number of episodes, and ends by itself.
        if wanted < max(config.episodes, len(log.episodes) if config.episodes else 0):
            raise ConfigError(
                f"episodes {wanted}: {folder.path} is a search of {config.episodes}, of which "
                f"{len(log.episodes)} are played; resuming it can only make it longer"
            )
        _check_inputs(folder, config, inputs)
        return cls(folder, config.model_copy(update={"episodes": wanted}), log)

    def first(self, episodes: int) -> Self:
        """The past up to this many episodes."""
        kept = b"".join(self.log.text.splitlines(keepends=True)[:episodes])
        return replace(
            self, log=replace(self.log, episodes=self.log.episodes[:episodes], text=kept)
        )

    def notes(self) -> list[str]:
        """What the user should know before the search goes on."""
        notes = []
        if self.log.torn:
            notes.append(f"{self.folder.episodes}: the last line was cut off, and is dropped")
        elif self.log.fault:
            notes.append(
                f"{self.folder.episodes}, {self.log.fault}; the search goes on from the "
                f"{len(self.log.episodes)} episodes before it, the damaged file is kept beside it"
            )
        changed = _changes(self.folder)
        if changed:
            notes.append(f"new episodes may round differently: {changed}")
        return notes

    def mend(self, plan: Plan | None) -> None:
        """Bring the folder in line with the episodes that were played again.

        ``plan`` is the best of them, None where there are none.
        """
        if self.folder.load_config() != self.config:
            self.folder.save_config(self.config)
        path = self.folder.episodes
        if self.log.fault and not self.log.torn:
            shutil.copyfile(path, free_name(path.parent, "episodes.damaged", path.suffix))
        if path.exists() and path.read_bytes() != self.log.text:
            with replacing(path) as draft:
                draft.write_bytes(self.log.text)
        if plan is not None and _stored(self.folder.plan) != plan:
            plan.save(self.folder.plan)


class Replay:
    """Holds a search to the episodes that are recorded; without any it holds it to nothing."""

    def __init__(self, past: RecordedRun | None = None) -> None:
        self._past = past
        self.episodes = past.log.episodes if past else ()

    @property
    def known(self) -> dict[tuple[int, ...], Mapping[str, float]]:
        """Recorded quality by widths."""
        return {episode.widths: episode.quality for episode in self.episodes}

    def check(self, proposals: Sequence[Proposal], played: int) -> None:
        """Raise :class:`RunError` where the record has other plans after ``played`` episodes."""
        rest = self.episodes[played:]
        if rest and not proposals:
            raise self._error(rest[0], "is not proposed")
        for recorded, proposal in zip(rest, proposals, strict=False):
            if proposal.widths != recorded.widths:
                raise self._error(recorded, f"is proposed as {list(proposal.widths)}")
            if proposal.wishes != recorded.proposed_keep:
                raise self._error(recorded, "comes of other wishes")

    def restore(self, episodes: Sequence[Episode]) -> list[Episode]:
        """``episodes`` with the recorded times; raises :class:`RunError` where they differ else."""
        restored = []
        for episode in episodes:
            if episode.number <= len(self.episodes):
                recorded = self.episodes[episode.number - 1]
                if replace(episode, seconds=recorded.seconds) != recorded:
                    raise self._error(recorded, "has another outcome")
                episode = recorded
            restored.append(episode)
        return restored

    def _error(self, recorded: Episode, what: str) -> RunError:
        assert self._past is not None
        folder = self._past.folder
        changed = _changes(folder)
        remedy = (
            f"resume it with what it was made with ({changed})"
            if changed
            else "put back its files as they were (config.toml, episodes.jsonl)"
        )
        return RunError(
            f"{folder.path}: the search cannot be played again: episode {recorded.number}, "
            f"recorded with the widths {list(recorded.widths)}, now {what}; {remedy}, or start a "
            "new run. Nothing was changed"
        )


def _check_inputs(folder: RunFolder, config: SearchConfig, inputs: Inputs) -> None:
    recorded = folder.inputs()
    if recorded.weights_sha256 != inputs.weights_sha256:
        source = "the network of that run"
        if config.model is not None and config.model.weights is None:
            source = "it; without --weights they were drawn at random, and are lost"
        elif config.model is not None:
            source = f"{config.model.weights} as it was"
        raise RunError(
            f"{folder.path} was made with other weights (sha256 {recorded.weights_sha256[:12]}, "
            f"now {inputs.weights_sha256[:12]}); resume it with {source}"
        )
    if recorded.data_sha256 != inputs.data_sha256:
        raise RunError(
            f"{folder.path} scored its plans on other images, or on the same prepared otherwise "
            f"(sha256 {_short(recorded.data_sha256)}, now {_short(inputs.data_sha256)}); put back "
            "the data and the file of search-val paths as they were"
        )


def _short(sha256: str | None) -> str:
    return sha256[:12] if sha256 else "none"


def _changes(folder: RunFolder) -> str:
    """What differs from when the run began: ``torch 2.9 then, 2.10 now``."""
    then, now = folder.versions(), versions()
    return ", ".join(
        f"{name} {then.get(name, 'unknown')} then, {value} now"
        for name, value in now.items()
        if then.get(name) != value
    )


def _numbered(log: Log) -> Log:
    """``log`` up to where its episodes are no longer counted 1, 2, 3."""
    for index, episode in enumerate(log.episodes):
        if episode.number != index + 1:
            lines = log.text.splitlines(keepends=True)[:index]
            fault = f"line {index + 1}: episode {episode.number} in the place of {index + 1}"
            return Log(log.episodes[:index], b"".join(lines), fault)
    return log


def _stored(path: Path) -> Plan | None:
    try:
        return Plan.load(path)
    except PlanError:
        return None
