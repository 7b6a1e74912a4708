"""``amc finetune``: the accuracy of a run's best plan recovered."""

from __future__ import annotations

import typer

from amc.cli import options as opt
from amc.cli.commands.shared import print_notes, recover_plan, set_threads
from amc.cli.from_settings import settings_command
from amc.cli.given import Given
from amc.config import FinetuneConfig, SearchConfig


@settings_command(SearchConfig)
def finetune(
    context: typer.Context,  # noqa: ARG001
    given: Given,
    run: opt.Run,
    budget: opt.Choice = [],  # noqa: B006 (typer reads the default)
    allow_factory: opt.AllowFactory = False,
) -> None:
    """Slice a run's best plan and recover its accuracy, with the dense network as teacher."""
    from amc.pipeline.recovery import choose, open_task
    from amc.records.run_folder import RunFolder

    set_threads(given["threads"])
    recipe = FinetuneConfig.parse(given.settings().get("finetune") or {})
    folder = choose(RunFolder.open(run), budget)
    task = open_task(folder, allow_factory=allow_factory)
    print_notes(task)
    recover_plan(task, folder, recipe)
