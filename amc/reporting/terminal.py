"""Tables for a terminal."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from amc.records.pareto_front import Front
from amc.records.results import Results
from amc.reporting.tables import compare, front_rows, measured_in


def results_table(results: Results) -> Table:
    """The same numbers as the page's, for a terminal."""
    shown = Table(caption=f"latency in {measured_in(results)}", caption_justify="left")
    shown.add_column("")
    for row in results.rows:
        shown.add_column(row.name, justify="right")
    for label, cells in compare(results):
        shown.add_row(
            label,
            *(
                Text.assemble(cell.value, *((f"\n{note}", "dim") for note in cell.notes))
                for cell in cells
            ),
        )
    return shown


def front_table(front: Front) -> Table:
    """The plans of a front, for a terminal."""
    head, rows = front_rows(front)
    shown = Table(title="plans that no other beats in both cost and quality")
    for name in head:
        shown.add_column(name, justify="right")
    for row in rows:
        shown.add_row(*row)
    return shown
