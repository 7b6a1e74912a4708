"""Episodes, and ``episodes.jsonl``: a line for each, written as it ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, TypeAdapter, ValidationError

from amc.errors import RunError
from amc.utils.settings import explain


@dataclass(frozen=True)
class Episode:
    """One finished episode: what was asked, what was done, what it cost and what it is worth.

    The sequences hold one entry per unit. Costs are by quantity (:mod:`amc.cost.quantities`),
    as far as the search knows them.
    """

    number: int
    """Counted from 1."""
    widths: tuple[int, ...]
    proposed_keep: tuple[float, ...]
    executed_keep: tuple[float, ...]
    costs: dict[str, int | float]
    """Absolute, by quantity."""
    kept: dict[str, float]
    """The same as fractions of the dense network."""
    quality: dict[str, float]
    reward: float
    seconds: dict[str, float]
    """Wall time of ``project`` and ``evaluate``."""
    budget: dict[str, float] = field(default_factory=dict)
    """Upper bounds under which it was planned, in absolute terms."""

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers; the inverse of :meth:`from_json`."""
        values = asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild an episode from :meth:`to_json`, or from ``info["plan"]``."""
        values = with_costs_by_quantity(dict(values))
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


def with_costs_by_quantity(values: Any) -> Any:
    """What an older version wrote, in which each cost had fields of its own, as it is now."""
    if not isinstance(values, dict) or "costs" in values:
        return values
    names = [name for name in ("macs", "params", "latency_us") if values.get(name) is not None]
    rest = {k: v for k, v in values.items() if k.removeprefix("kept_") not in _OLD}
    return rest | {
        "costs": {name: values[name] for name in names},
        "kept": {name: values.get(f"kept_{name}") for name in names},
    }


def fractions_by_quantity(values: Any) -> Any:
    """``kept_macs`` and ``kept_params``, which an older version wrote, as ``kept``."""
    if not isinstance(values, dict) or "kept" in values:
        return values
    kept = {k.removeprefix("kept_"): v for k, v in values.items() if k.startswith("kept_")}
    return {k: v for k, v in values.items() if not k.startswith("kept_")} | {"kept": kept}


_OLD = ("macs", "params", "latency_us")
_EPISODE = TypeAdapter(Annotated[Episode, BeforeValidator(with_costs_by_quantity)])


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
