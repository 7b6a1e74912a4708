"""The networks of a run side by side: each number, and its change relative to the dense one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from amc.cost import quantities
from amc.records.pareto_front import Front
from amc.records.results import Results
from amc.utils import formatting

_ABSENT = "–"


@dataclass(frozen=True)
class Cell:
    """One number as people read it, and what is said below it in small print."""

    value: str
    notes: tuple[str, ...] = ()


def compare(results: Results) -> list[tuple[str, list[Cell]]]:
    """Lines of a table: the name of a quantity, and a cell for each row of ``results``."""
    lines = [("Test accuracy", _accuracies(results, "test_accuracy"))]
    if any(row.search_val_accuracy is not None for row in results.rows):
        lines.append(("Search-val accuracy", _accuracies(results, "search_val_accuracy")))
    for name in _counted(results.rows[0].costs if results.rows else ()):
        lines.append((_capitalised(quantities.word(name)), _counts(results, name)))
    lines.append((f"Latency, batch {results.batch}", _latencies(results)))
    if results.clock == "cpu":
        lines.append((f"CPU time, batch {results.batch}", _cpu_times(results)))
    return lines


def front_rows(front: Front) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of the plans of a front, the best first, and the dense network."""
    names = list(front.dense_quality)
    costs = list(front.plans[0].costs) if front.plans else ["macs", "params"]
    words = [_capitalised(quantities.word(name)) for name in costs]
    head = ["", *words, *(_heading(name) for name in names)]
    if not front.plans:
        return head, []
    dense_costs = front.plans[0].dense_costs
    dense = ["dense", *(quantities.quantity(q).measure.show(dense_costs[q]) for q in costs)]
    rows = [[*dense, *(_quality(name, front.dense_quality) for name in names)]]
    for number, plan in enumerate(reversed(front.plans), start=1):
        shares = [plan.kept[name] for name in costs]
        quality = [_quality(name, plan.quality) for name in names]
        rows.append([str(number), *map(formatting.percent, shares), *quality])
    return head, rows


def _counted(names: Iterable[str]) -> list[str]:
    """Those that are not measured anyway."""
    return [name for name in names if quantities.quantity(name).measure.whole]


def _capitalised(word: str) -> str:
    return word[:1].upper() + word[1:]


def _heading(name: str) -> str:
    return "KL" if name == "kl" else name.replace("_", "-").capitalize()


def _quality(name: str, quality: Mapping[str, float]) -> str:
    if name not in quality:
        return _ABSENT
    return (
        formatting.percent(quality[name])
        if name == "accuracy"
        else formatting.number(quality[name])
    )


def _accuracies(results: Results, name: str) -> list[Cell]:
    cells = []
    for value, dense in _against_dense(results, name):
        points = () if dense is None else (formatting.change(100 * (value - dense), " points", 2),)
        cells.append(Cell(_ABSENT) if value is None else Cell(formatting.percent(value, 2), points))
    return cells


def _counts(results: Results, name: str) -> list[Cell]:
    dense = results.row("dense")
    cells = []
    for row in results.rows:
        value = row.costs[name]
        change = _relative(value, dense.costs[name]) if dense and dense is not row else ()
        cells.append(Cell(formatting.count(value), change))
    return cells


def _latencies(results: Results) -> list[Cell]:
    cells = []
    for row, (value, dense) in zip(
        results.rows, _against_dense(results, "latency_ms"), strict=True
    ):
        spread = row.latency_spread_ms
        notes = _relative(value, dense) + (() if spread is None else (f"spread {spread:.2g}",))
        cells.append(
            Cell(_ABSENT) if value is None else Cell(formatting.milliseconds(value), notes)
        )
    return cells


def _cpu_times(results: Results) -> list[Cell]:
    return [
        Cell(_ABSENT if value is None else formatting.milliseconds(value), _relative(value, dense))
        for value, dense in _against_dense(results, "cpu_ms")
    ]


def measured_in(results: Results) -> str:
    """Where and how latency was measured."""
    runtime = results.runtime or f"eager PyTorch on {results.device}"
    return f"{runtime}; {results.noise}" if results.noise else runtime


def _relative(value: float, dense: float | None) -> tuple[str, ...]:
    return (formatting.change(100 * (value / dense - 1), "%"),) if dense else ()


def _against_dense(results: Results, name: str) -> Iterator[tuple[Any, Any]]:
    """Each row's value, and the dense network's where both are known and it is another row."""
    dense = results.row("dense")
    for row in results.rows:
        value = getattr(row, name)
        known = dense is not None and dense is not row and value is not None
        yield value, getattr(dense, name) if known else None
