"""A table for a terminal, without a frame. Nothing heavy is imported: commands use it."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table


def plain_table(*headings: str, right: Iterable[str] = ()) -> Table:
    """A table with a line below its head and none around; columns of ``right`` end in line."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
    return table
