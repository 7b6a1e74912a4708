"""``amc finetune``: the accuracy of a run's best plan recovered."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amc.cli import options as opt
from amc.cli.commands.shared import console, print_notes, recover_plan, set_threads
from amc.cli.from_settings import settings_command, typed_beyond
from amc.cli.given import Given
from amc.config import FinetuneConfig, SearchConfig
from amc.errors import AMCError, ConfigError
from amc.utils.options import RUN

if TYPE_CHECKING:
    from amc.records.run_folder import RunFolder
    from amc.training.devices import Devices

_PATIENCE_SECONDS = 10


@settings_command(SearchConfig)
def finetune(
    context: typer.Context,
    given: Given,
    run: opt.Run,
    budget: opt.Choice = [],  # noqa: B006 (typer reads the default)
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the finetuning that was interrupted here, by its own recipe",
            rich_help_panel=RUN,
        ),
    ] = False,
    allow_factory: opt.AllowFactory = False,
) -> None:
    """Slice a run's best plan and recover its accuracy, with the dense network as teacher.

    The recipe is the run's, with the options below in the place of its own; what neither says is
    chosen for the damage and the data, and printed. The weights that are kept are the best on
    search-val: of the last step, their moving average, or the pruned network's own.

        amc finetune runs/NAME --epochs 60 --teacher amc:resnet56@big.safetensors

    However it was interrupted, this goes on as if it had not been:

        amc finetune runs/NAME --resume

    On several GPUs, or CPU processes (pip install amc-agent[distributed]):

        accelerate launch --multi_gpu -m amc finetune runs/NAME

        torchrun --nproc-per-node 2 -m amc finetune runs/NAME
    """
    from amc.training.devices import devices

    set_threads(given["threads"])
    with _one_voice():
        team = devices()
        folder = _chosen(run, budget, team)
        recipe = _recipe(context, given, folder, resume=resume)
        _check_typed(recipe, given, folder, allow_factory)
        _finetune(folder, recipe, team, resume=resume, allow_factory=allow_factory)
        team.close()


def _finetune(
    folder: RunFolder, recipe: FinetuneConfig, team: Devices, *, resume: bool, allow_factory: bool
) -> None:
    from amc.pipeline.opening import open_task
    from amc.pipeline.recovery import follow
    from amc.pruning.plan import Plan

    task = open_task(folder, device=team.device, allow_factory=allow_factory, progress=team.first)
    if team.first:
        print_notes(task.notes)
        recover_plan(task, folder, recipe, resume=resume)
    else:
        follow(task, Plan.load(folder.plan), recipe, folder, resume=resume)


def _chosen(run: Path, budget: list[str], team: Devices) -> RunFolder:
    """The folder of the plan: made by the first process, before the others look for it."""
    from amc.pipeline.opening import choose, chosen_folder
    from amc.records.run_folder import RunFolder

    folder = RunFolder.open(run)
    if team.first:
        folder = choose(folder, budget)
    team.wait()
    return folder if team.first else chosen_folder(folder, budget)


def _check_typed(
    recipe: FinetuneConfig, given: Given, folder: RunFolder, allow_factory: bool
) -> None:
    """Python files that nobody typed, but ``folder`` names, are only run where that is allowed."""
    from amc.pipeline.opening import check_recipe

    typed = given.typed.keys()
    recorded = recipe.model_copy(
        update={
            name: FinetuneConfig.model_fields[name].default
            for name in ("optimizer", "teacher")
            if f"finetune.{name}" in typed
        }
    )
    check_recipe(recorded, folder.config, allow_factory)


def _recipe(
    context: typer.Context, given: Given, folder: RunFolder, *, resume: bool
) -> FinetuneConfig:
    """That of the interrupted training, or of the run with what is typed in its place."""
    from amc.training.finetune import unfinished

    left = unfinished(folder.finetuning, lambda text: console.print(f"note        {text}"))
    if resume:
        others = typed_beyond(context, {"run", "resume", "budget", "threads", "allow_factory"})
        if others:
            raise ConfigError(
                f"--resume with {', '.join(others)}: a finetuning goes on by the recipe that it "
                "began with"
            )
        if left is None:
            raise ConfigError(
                f"{folder.path} holds no interrupted finetuning; begin one: amc finetune "
                f"{folder.path}"
            )
        return left.recipe
    if left is not None:
        raise ConfigError(
            f"{folder.finetuning} holds a finetuning that was interrupted after {left.steps} "
            f"steps; go on with it (--resume), or remove that folder to begin anew"
        )
    recorded = folder.load_config().finetune
    table = recorded.model_dump() if recorded is not None and recorded.epochs else {}
    # What was pruned in stages is trained as it is.
    return FinetuneConfig.parse({**table, "stages": 1, **(given.settings().get("finetune") or {})})


@contextlib.contextmanager
def _one_voice() -> Iterator[None]:
    """Of several processes only the first prints; what goes wrong in another one alone is told
    after a while, in which the launcher ends it where the first has failed as well."""
    first = os.environ.get("RANK", "0") == "0"
    if first:
        yield
        return
    console.quiet = True
    warnings.simplefilter("ignore")
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except AMCError:
        time.sleep(_PATIENCE_SECONDS)
        raise
