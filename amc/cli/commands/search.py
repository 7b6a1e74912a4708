"""``amc search``: a search from its beginning, or one that goes on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from amc.cli import options as opt
from amc.cli.commands.networks import resume_training, train, training_name
from amc.cli.commands.shared import (
    aligned,
    budget_texts,
    console,
    finetuning,
    images,
    latency_config,
    network,
    print_notes,
    problem_name,
    progress_bar,
    recover_plan,
    set_threads,
)
from amc.cli.from_settings import settings_command, typed_beyond
from amc.cli.given import Given
from amc.config import SearchConfig
from amc.errors import BudgetError, ConfigError

if TYPE_CHECKING:
    from amc.pipeline.source import Source
    from amc.task import Task


@settings_command(SearchConfig, basic=("run", "resume"))
def search(
    context: typer.Context,
    given: Given,
    model: opt.OptionalSpec = None,
    no_budget: opt.NoBudget = False,
    models: opt.Networks = [],  # noqa: B006 (typer reads the default)
    run: opt.NewRun = None,
    resume: opt.Resume = None,
    allow_factory: opt.AllowFactory = False,
) -> None:
    """Train the agent, find the best plan, prune the network for real, and finetune it.

    A plan says how much of each unit to keep: channels that can only be removed together (`amc
    inspect MODEL` lists them). Plans are scored on search-val images, never on the test set.

        amc search amc:resnet20 --weights W --data imagefolder:DIR --budget flops=0.5

    Everything is written to the run's folder as it happens. Watch it grow:

        tensorboard --logdir runs

    A bound on latency holds on this machine, by measurement, in the runtime of --backend:

        amc search MODEL --budget latency=0.6 --backend onnxruntime --round-to auto

    A range of budgets gives the best plans from cheap to accurate, `--min-accuracy` the cheapest
    network of that accuracy:

        amc search MODEL --budget flops=0.3:0.8

        amc search MODEL --min-accuracy 0.9

    What is learned can be used on other networks, without a search or with a short one (`amc
    replay --help`). For a policy that knows several networks, name them all:

        amc search --model amc:resnet20@W --model amc:resnet56@V --budget flops=0.3:0.8

    Ctrl-C ends a search early with the best plan so far; `amc finetune RUN` goes on from there.
    However a search was interrupted, this goes on as if it had not been:

        amc search --resume runs/NAME

    The settings of another run, or of a file of yours, and what is to differ from them:

        amc search --config runs/NAME/config.toml --seed 1
    """
    if resume is not None:
        _check_resumable(context)
        _resume(resume, given, allow_factory)
        return
    from amc.records.run_folder import check_free, free_name
    from amc.vision.task import image_task

    set_threads(given["threads"])
    if models and (model is not None or given.typed.keys() & {"model.weights", "model.arguments"}):
        raise ConfigError("--model names a network and its weights: without MODEL, --weights, ...")
    config = _config(given, model, models, no_budget)
    if models:
        train(models, config, run or free_name(Path("runs"), training_name(models, config)))
        return
    assert config.model is not None
    assert config.data is not None
    path = run or free_name(Path("runs"), run_name(config))
    check_free(path)  # before the images are read
    task = image_task(
        config.model,
        config.data,
        config.evaluate,
        seed=config.seed,
        device=config.device,
        check=True,
    )
    run_search(task, path, config)


def _config(given: Given, model: str | None, models: list[str], no_budget: bool) -> SearchConfig:
    """The settings of the search."""
    from amc.pipeline.search import make_config

    found = None if models else network(given, model)
    if found is None and not models:
        raise ConfigError("name the network to prune: amc search MODEL, or amc search --resume RUN")
    aimless, default = given["min_accuracy"] is None, "flops=0.3:0.8" if models else "flops=0.5"
    budget = budget_texts(given, [default] if aimless else [])
    values = given.settings()
    values.pop("budget", None)
    if "preset" in given.typed:  # it says what a file says of the agent
        for name in {"agent", "episodes", "agent_settings"} - given.typed.keys():
            values.pop(name, None)
    if no_budget and aimless and given["reward"] == "kl":
        values["reward"] = "amc-flops"
    values |= {
        "model": found,
        "data": images(given),
        "latency": latency_config(given),
        "finetune": finetuning(given),
        **aligned(given, *budget, given["minimise"], given["reward"]),
    }
    return make_config([] if no_budget else budget, **values)


def _resume(run: Path, given: Given, allow_factory: bool) -> None:
    """Go on with an interrupted search, as ``config.toml`` says that it began."""
    from amc.models.factory import check_allowed
    from amc.pipeline.opening import check_recipe, open_task
    from amc.records.run_folder import TRAINING, RunFolder

    episodes, device, threads = (
        given.typed.get(name) for name in ("episodes", "device", "threads")
    )
    if episodes == 0:
        raise ConfigError("--episodes 0: a search goes on with at least one")
    if (run / TRAINING).is_file():
        resume_training(run, episodes, device, threads, allow_factory)
        return
    folder = RunFolder.open(run)
    config = folder.load_config()
    check_allowed(config.agent, folder.config, allow_factory)
    if config.finetune is not None:
        check_recipe(config.finetune, folder.config, allow_factory)
    set_threads(threads or config.threads)
    task = open_task(folder, device=device, allow_factory=allow_factory)
    run_search(task, run, config, resume=True, episodes=episodes)


def _check_resumable(context: typer.Context) -> None:
    """Refuse what would change a search that has begun."""
    others = typed_beyond(context, {"resume", "episodes", "device", "threads", "allow_factory"})
    if others:
        raise ConfigError(
            f"--resume with {', '.join(others)}: a search goes on with the settings that it began "
            "with; beside it can only be --episodes, --device, --threads and --allow-factory"
        )


def run_search(
    task: Task,
    path: Path,
    config: SearchConfig,
    *,
    start: Source | None = None,
    resume: bool = False,
    episodes: int | None = None,
) -> None:
    """Search into the folder ``path`` and recover the best plan, or do what is missing there."""
    from amc.config import FinetuneConfig
    from amc.pipeline.recovery import recovered
    from amc.pipeline.search import search as find_plan
    from amc.presets import in_file
    from amc.records.run_folder import RunFolder
    from amc.reporting.report import write_report
    from amc.reporting.terminal import front_table

    folder = RunFolder(path)
    command = shlex.join(["amc", "search", "--resume", str(path)])
    named = [config.agent, *(one.spec for one in (config.model, config.data) if one is not None)]
    if config.finetune is not None:
        named += [config.finetune.optimizer, (config.finetune.teacher or "").partition("@")[0]]
    if any(in_file(name) for name in named):
        command += " --allow-factory"
    begin: dict[str, Any] = {"config": config, "start": start}
    given = {"resume": True, "episodes": episodes} if resume else begin
    print_notes(task.notes)
    if task.check_recipe is not None and config.finetune is not None and not resume:
        task.check_recipe(config.finetune)  # before the search, not after it
    console.print(f"run folder  {path}   (watch it: tensorboard --logdir {path.parent})")
    try:
        if config.finetune is not None and config.finetune.stages > 1:
            _run_stages(task, path, config, command)
            return
        with progress_bar(episodes=episodes or config.episodes or None) as bar:
            result = find_plan(
                task,
                run=path,
                on_unit=bar.unit,
                on_stage=bar.measured,
                on_episode=bar.episode,
                on_note=bar.note,
                **given,
            )
        best = result.best
        played = len(result.history)
        found = f"episode {best.number} of {played}" if best.number <= played else "tightened"
        if result.confirmation is not None:
            console.print(f"latency     {result.confirmation}", highlight=False)
        console.print(
            f"best plan   {best.kept['macs']:.2%} of the MACs, {best.kept['params']:.2%} of the "
            f"parameters; search-val accuracy {best.quality.get('accuracy', float('nan')):.3f}, "
            f"reward {best.reward:.4f} ({found})"
        )
        if result.interrupted:
            write_report(path)
            console.print(
                f"interrupted after {len(result.history)} episodes; the best plan so far is "
                f"{folder.plan}\nprune and finetune it: amc finetune {path}\ngo on: {command}"
            )
            raise typer.Exit(130)
        if result.front is not None:
            console.print(front_table(result.front))
        floor, reached = config.min_accuracy, best.quality.get("accuracy", 0.0)
        if floor is not None and reached < floor:
            write_report(path)
            raise BudgetError(
                f"none of the {len(result.history)} plans has an accuracy of {floor:g}; the best "
                f"has {reached:.4f} (kept as {folder.plan}). Try more episodes, or finetune that "
                f"one: amc finetune {path}"
            )
        recipe = config.finetune or FinetuneConfig(epochs=0)
        done = recovered(folder, result.plan, recipe) if resume else None
        if done is not None:
            write_report(path)  # of more episodes, perhaps
        recover_plan(task, folder, recipe, done, resume=resume)
    except KeyboardInterrupt:
        if folder.config.is_file():
            console.print(f"go on: {command}")
        raise


def _run_stages(task: Task, path: Path, config: SearchConfig, command: str) -> None:
    """Search, cut and finetune in stages, or do what is missing of them."""
    from amc.pipeline.assignment import Listener
    from amc.pipeline.recovery import recovered
    from amc.pipeline.stages import OnTraining, prune_in_stages
    from amc.pruning.plan import Plan
    from amc.records.run_folder import RunFolder

    folder, recipe = RunFolder(path), config.finetune
    assert recipe is not None
    done = recovered(folder, Plan.load(folder.plan), recipe) if folder.results.exists() else None
    if done is None:
        with progress_bar(episodes=config.episodes // recipe.stages) as bar:
            searching = Listener(bar.unit, bar.measured, bar.episode, bar.note)
            training = OnTraining(bar.stage, bar.epoch, bar.step("finetune"), bar.note)
            done = prune_in_stages(task, path, config, searching, training)
    if done is None:
        console.print(f"interrupted; go on: {command}")
        raise typer.Exit(130)
    recover_plan(task, folder, recipe, done)


def run_name(config: SearchConfig) -> str:
    """Of a new folder: the network, what is wanted of it, by whom, and the seed."""
    agent = "replay" if config.start else config.agent
    parts = [problem_name(config), *([] if agent == "expert" else [agent])]
    return "-".join([*parts, f"seed{config.seed}"])
