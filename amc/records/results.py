"""What a run has recorded: ``results.json`` and ``episodes.jsonl``, read and checked."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from amc.config import FinetuneConfig
from amc.task import Epoch, Kept
from amc.utils.formatting import milliseconds, percent
from amc.utils.json_document import JsonDocument
from amc.utils.settings import Settings


class Row(Settings):
    """One network of the comparison: as it came, sliced, or sliced and trained again."""

    name: Literal["dense", "pruned", "finetuned"]
    test_accuracy: float | None = None
    """In [0, 1]; None where the task has no test."""
    search_val_accuracy: float | None = None
    """In [0, 1], on the images that gave the reward."""
    costs: dict[str, int | float]
    """What the plan knows of it, by quantity, for one example; latency as it was predicted."""
    latency_ms: float | None = None
    """Median of one forward; None where it was not measured."""
    latency_spread_ms: float | None = None
    """Interquartile range of the same forwards."""
    cpu_ms: float | None = None
    """Median CPU time of the same forwards."""

    @model_validator(mode="before")
    @classmethod
    def _by_quantity(cls, values: Any) -> Any:
        """Older files have fields for MACs and parameters."""
        if isinstance(values, dict) and "costs" not in values and "macs" in values:
            costs = {"macs": values["macs"], "params": values.get("params")}
            values = {k: v for k, v in values.items() if k not in costs} | {"costs": costs}
        return values


class Results(JsonDocument):
    """``results.json``: the networks side by side, and how the last of them was trained."""

    kind = "sound results"
    absent = "; a search writes it at its end, so let one finish"
    unsound = "; remove the file to do without it"
    format: Literal["amc.results/1"] = "amc.results/1"
    rows: tuple[Row, ...]
    device: str
    """Where latency was measured."""
    runtime: str | None = None
    """In what, with version, threads and precision; None (older files): eager PyTorch."""
    batch: int = 1
    """Examples of a measured forward."""
    clock: Literal["wall", "cpu"] = "wall"
    """By which clock the networks' latencies compare: CPU time where the machine was too busy."""
    noise: str = ""
    """How busy it was, in words; empty where it was not."""
    epochs: tuple[Epoch, ...] = ()
    """Finetuning; empty where there was none."""
    recipe: FinetuneConfig | None = None
    """How it was finetuned: nothing left open."""
    kept: Kept | None = None
    """Which weights finetuning left; None where there was none, and in older files (the last
    epoch's)."""
    accuracies: dict[str, float] = Field(default_factory=dict)
    """On search-val, of each candidate that finetuning chose from, in [0, 1]."""
    notes: tuple[str, ...] = ()
    """What was chosen for the user and why, and what he should know."""
    images: dict[str, int] = Field(default_factory=dict)
    """How many images of each split were used."""
    verified_error: float
    """Worst error of the sliced network against its masked twin, relative to the largest output."""

    def time_ms(self, row: Row) -> float | None:
        """The latency of a row by the clock that decides."""
        return row.latency_ms if self.clock == "wall" else row.cpu_ms

    def row(self, name: str) -> Row | None:
        """The row of that name, or None."""
        return next((row for row in self.rows if row.name == name), None)


class Timed(Settings):
    """One plan, timed beside the dense network."""

    widths: tuple[int, ...]
    reward: float
    predicted_us: float
    measured_us: float
    dense_us: float
    """In the same turns."""
    holds: bool


class Confirmation(JsonDocument):
    """``latency.json``: which plans were timed, where, and how the last of them was chosen."""

    kind = "a sound confirmation"
    unsound = "; remove the file to do without it"
    format: Literal["amc.confirmation/1"] = "amc.confirmation/1"
    runtime: str
    identity: dict[str, str]
    batch: int
    clock: Literal["wall", "cpu"]
    noise: str
    """Why not by the wall clock; empty where all is well."""
    limit_us: float | None
    """The bound that was asked for; None where the search weighs latency against error."""
    tightened: tuple[float, ...] = ()
    """Factors on the bound, one for each time that all candidates missed."""
    timed: tuple[Timed, ...]
    """In the order in which they were tried; the last is the one that was taken."""

    def __str__(self) -> str:
        last = self.timed[-1]
        kept, predicted = (
            percent(us / last.dense_us) for us in (last.measured_us, last.predicted_us)
        )
        return (
            f"{milliseconds(last.measured_us / 1e3)} measured ({kept} of the dense network's "
            f"{milliseconds(last.dense_us / 1e3)}; predicted {predicted}) in "
            f"{self.runtime}"
        )
