"""Episodes, and ``episodes.jsonl``: a line for each, written as it ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from amc.errors import RunError
from amc.utils.settings import explain


@dataclass(frozen=True)
class Episode:
    """One finished walk: what was asked, what was done, what it cost and what it is worth.

    The sequences hold one entry per unit. ``macs`` and ``params`` are counts, ``latency_us`` is
    what the model of the device predicts (None without one); ``kept_macs`` and so on are fractions
    of the dense network.
    """

    number: int
    """Counted from 1."""
    widths: tuple[int, ...]
    proposed_keep: tuple[float, ...]
    executed_keep: tuple[float, ...]
    macs: int
    params: int
    kept_macs: float
    kept_params: float
    quality: dict[str, float]
    reward: float
    seconds: dict[str, float]
    """Wall time of ``project`` and ``evaluate``."""
    budget: dict[str, float] = field(default_factory=dict)
    """Upper bounds under which it was walked, in absolute terms."""
    latency_us: float | None = None
    kept_latency_us: float | None = None

    @property
    def costs(self) -> dict[str, float]:
        """Absolute costs by quantity, as far as they are known."""
        known = {"macs": self.macs, "params": self.params, "latency_us": self.latency_us}
        return {name: cost for name, cost in known.items() if cost is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers; the inverse of :meth:`from_json`."""
        values = asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild an episode from :meth:`to_json`, or from ``info["plan"]``."""
        lists = ("widths", "proposed_keep", "executed_keep")
        return cls(**{**values, **{name: tuple(values[name]) for name in lists}})


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


_EPISODE = TypeAdapter(Episode)


def read_episodes(path: Path) -> tuple[Episode, ...]:
    """Every finished episode of ``episodes.jsonl``.

    A last line that a crash has cut off is skipped. Raises :class:`RunError` for a missing file,
    and for any other line that is not an episode, with its number.
    """
    log = read_log(path)
    if log.fault and not log.torn:
        raise RunError(
            f"{path}, {log.fault}; remove the line, or let the search go on from the episodes "
            f"before it: amc search --resume {path.parent}"
        )
    return log.episodes


@dataclass(frozen=True)
class Log:
    """``episodes.jsonl`` as far as it is sound."""

    episodes: tuple[Episode, ...] = ()
    text: bytes = b""
    """Their lines."""
    fault: str = ""
    """What is wrong with the line behind them; empty where there is none."""
    torn: bool = False
    """Whether that is the last line, cut off while it was written."""


def read_log(path: Path) -> Log:
    """The episodes up to the first line that is none. Raises :class:`RunError` without a file."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except FileNotFoundError:
        raise RunError(f"{path}: no such file; is this the folder of a run?") from None
    episodes: list[Episode] = []
    fault, torn = "", False
    for number, line in enumerate(lines, start=1):
        try:
            episodes.append(_EPISODE.validate_json(line))
        except ValidationError as error:
            fault = f"line {number}: not an episode: {explain(error)}"
            torn = number == len(lines) and error.errors()[0]["type"] == "json_invalid"
            break
    text = b"".join(line.rstrip(b"\r\n") + b"\n" for line in lines[: len(episodes)])
    return Log(tuple(episodes), text, fault, torn)
