"""``amc report``: the page of a run."""

from __future__ import annotations

from amc.cli import options as opt
from amc.cli.commands.shared import console


def report(run: opt.Run) -> None:
    """Write the run's page, report.html, again."""
    from amc.reporting.report import write_report

    console.print(f"report      {write_report(run)}")
