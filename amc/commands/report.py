"""``amc report``: the page of a run."""

from __future__ import annotations

from amc import options as opt
from amc.commands.shared import console


def report(run: opt.Run) -> None:
    """Write the run's page, report.html, again."""
    from amc.report import write_report

    console.print(f"report      {write_report(run)}")
