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
    bounds,
    console,
    data_config,
    evaluation,
    latency_config,
    model_config,
    problem_name,
    progress_bar,
    recover_plan,
    set_threads,
)
from amc.errors import BudgetError, ConfigError

if TYPE_CHECKING:
    from amc.config import SearchConfig
    from amc.pipeline.source import Source
    from amc.task import Task


def search(
    context: typer.Context,
    model: opt.SpecUnlessResumed = None,
    weights: opt.Weights = None,
    model_arg: opt.ModelArg = [],  # noqa: B006 (typer reads the default)
    data: opt.Data = "digits",
    search_val: opt.SearchVal = None,
    image_size: opt.ImageSize = None,
    download: opt.Download = False,
    budget: opt.Budget = [],  # noqa: B006
    no_budget: opt.NoBudget = False,
    min_accuracy: opt.MinAccuracy = None,
    minimise: opt.Minimise = "macs",
    backend: opt.LatencyBackend = None,
    latency_batch: opt.LatencyBatch = 1,
    latency_threads: opt.LatencyThreads = 1,
    min_keep: opt.MinKeep = 0.1,
    min_width: opt.MinWidth = 1,
    round_to: opt.RoundTo = [],  # noqa: B006
    exclude: opt.Exclude = [],  # noqa: B006
    gentle_ends: opt.GentleEnds = False,
    allow_drop: opt.AllowDrop = False,
    importance: opt.Importance = None,
    models: opt.Networks = [],  # noqa: B006
    agent: opt.Agent = None,
    preset: opt.Preset = "default",
    episodes: opt.Episodes = None,
    reward: opt.Reward = "kl",
    constraint: opt.Constraint = "projection",
    images: opt.Images = 1000,
    calibration_images: opt.CalibrationImages = 256,
    reconstruct: opt.Reconstruct = False,
    epochs: opt.Epochs = 15,
    lr: opt.LearningRate = 0.05,
    run: opt.NewRun = None,
    resume: opt.Resume = None,
    seed: opt.Seed = 0,
    bf16: opt.Bf16 = None,
    device: opt.Device = "cpu",
    threads: opt.Threads = None,
    workers: opt.Workers = 1,
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
    """
    if resume is not None:
        _check_resumable(context)
        _resume(
            resume,
            episodes,
            device if _is_given(context, "device") else None,
            threads,
            allow_factory,
        )
        return
    if model is None and not models:
        raise ConfigError("name the network to prune: amc search MODEL, or amc search --resume RUN")
    from amc.config import FinetuneConfig
    from amc.pipeline.search import make_config
    from amc.records.run_folder import check_free, free_name
    from amc.vision.task import image_task

    set_threads(threads)
    if models and (model is not None or weights is not None or model_arg):
        raise ConfigError("--model names a network and its weights: without MODEL, --weights, ...")
    network = model_config(model, weights, model_arg) if model is not None else None
    image_set = data_config(data, search_val, image_size, download)
    align, multiples = aligned(round_to, *budget, minimise, reward)
    allowed = bounds(min_keep, min_width, multiples, exclude, gentle_ends, allow_drop)
    recipe = FinetuneConfig.parse({"epochs": epochs, "lr": lr, "seed": seed, "bf16": bf16})
    by_preset = {"agent": agent, "episodes": episodes}
    aimless, default = min_accuracy is None, "flops=0.3:0.8" if models else "flops=0.5"
    config = make_config(
        [] if no_budget else budget or ([default] if aimless else []),
        model=network,
        data=image_set,
        **allowed.model_dump(),
        align=align,
        latency=latency_config(backend, latency_batch, latency_threads, device),
        **{name: value for name, value in by_preset.items() if value is not None},
        min_accuracy=min_accuracy,
        minimise=minimise,
        importance=importance,
        preset=preset,
        reward="amc-flops" if no_budget and aimless and reward == "kl" else reward,
        constraint=constraint,
        evaluate=evaluation(images, calibration_images, bf16, reconstruct),
        finetune=recipe,
        seed=seed,
        device=device,
        threads=threads,
        workers=workers,
    )
    if network is None:
        train(models, config, run or free_name(Path("runs"), training_name(models, config)))
        return
    path = run or free_name(Path("runs"), run_name(config))
    check_free(path)  # before the images are read
    task = image_task(network, image_set, config.evaluate, seed=seed, device=device)
    run_search(task, path, config)


def _resume(
    run: Path, episodes: int | None, device: str | None, threads: int | None, allow_factory: bool
) -> None:
    """Go on with an interrupted search, as ``config.toml`` says that it began."""
    from amc.pipeline.recovery import open_task
    from amc.records.run_folder import TRAINING, RunFolder

    if (run / TRAINING).is_file():
        resume_training(run, episodes, device, threads, allow_factory)
        return
    folder = RunFolder.open(run)
    config = folder.load_config()
    set_threads(threads or config.threads)
    task = open_task(folder, device=device, allow_factory=allow_factory)
    run_search(task, run, config, resume=True, episodes=episodes)


def _check_resumable(context: typer.Context) -> None:
    """Refuse what would change a search that has begun."""
    fine = {"resume", "episodes", "device", "threads", "allow_factory"}
    names = {parameter.name: parameter for parameter in context.command.params}
    others = [
        "MODEL" if name == "model" else names[name].opts[0]
        for name in context.params
        if name not in fine and _is_given(context, name)
    ]
    if others:
        raise ConfigError(
            f"--resume with {', '.join(others)}: a search goes on with the settings that it began "
            "with; beside it can only be --episodes, --device, --threads and --allow-factory"
        )


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


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
    from amc.records.run_folder import RunFolder
    from amc.reporting.report import front_table, write_report

    folder = RunFolder(path)
    command = shlex.join(["amc", "search", "--resume", str(path)])
    if config.model is not None and ".py:" in config.model.spec:
        command += " --allow-factory"
    begin: dict[str, Any] = {"config": config, "start": start}
    given = {"resume": True, "episodes": episodes} if resume else begin
    console.print(f"run folder  {path}   (watch it: tensorboard --logdir {path.parent})")
    try:
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
        recover_plan(task, folder, recipe, done)
    except KeyboardInterrupt:
        if folder.config.is_file():
            console.print(f"go on: {command}")
        raise


def run_name(config: SearchConfig) -> str:
    """Of a new folder: the network, what is wanted of it, by whom, and the seed."""
    agent = "replay" if config.start else config.agent
    parts = [problem_name(config), *([] if agent == "expert" else [agent])]
    return "-".join([*parts, f"seed{config.seed}"])
