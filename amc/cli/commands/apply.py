"""``amc apply``: the sliced network of a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amc.cli import options as opt
from amc.cli.commands.shared import console, print_notes, recover_plan
from amc.cli.from_settings import settings_command
from amc.cli.given import Given
from amc.config import FinetuneConfig, SearchConfig
from amc.errors import ConfigError


@settings_command(SearchConfig)
def apply(
    context: typer.Context,  # noqa: ARG001
    given: Given,
    source: Annotated[
        Path, typer.Argument(metavar="RUN-or-plan.json", help="Folder of a run, or a plan's file")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Network to write, for a plan's file: pruned.safetensors")
    ] = None,
    budget: opt.Choice = [],  # noqa: B006
    allow_factory: opt.AllowFactory = False,
) -> None:
    """Slice the plan from the original weights, verify it against its masked twin, and save it.

    For a run, BatchNorm is recalibrated and the result tested; for a bare plan.json the sliced
    weights are saved as they are. Of a search over a range of budgets, the best plan within one:

        amc apply runs/NAME --budget flops=0.42
    """
    from amc.pipeline.opening import apply_file, choose, open_task
    from amc.records.run_folder import RunFolder

    if source.is_dir():
        folder = choose(RunFolder.open(source), budget)
        task = open_task(folder, allow_factory=allow_factory)
        print_notes(task.notes)
        recover_plan(task, folder, FinetuneConfig(epochs=0))
        return
    if budget:
        raise ConfigError(f"--budget: {source} is one plan; give the run's folder to choose from")
    target = out or source.with_name("pruned.safetensors")
    error = apply_file(source, target, weights=given["model.weights"], allow_factory=allow_factory)
    console.print(f"verified (relative error {error:.1e}), saved as {target}")
