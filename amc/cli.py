"""The command line. Every command is a thin wrapper over one function; heavy imports are inside."""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from amc import options as opt
from amc.errors import AMCError, BudgetError, ConfigError
from amc.text import limits_name

if TYPE_CHECKING:
    from amc.config import FinetuneConfig, SearchConfig

app = typer.Typer(
    name="amc",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="Learn how hard to prune each layer of a trained network, and prune it for real.",
)
console = Console()
_debug = False


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error")] = False,
) -> None:
    global _debug
    _debug = debug


@app.command()
def inspect(
    model: opt.Spec,
    weights: opt.Weights = None,
    model_arg: opt.ModelArg = [],  # noqa: B006 (typer reads the default)
    input_shape: Annotated[
        str | None, typer.Option("--input", help="Input shape C,H,W; default: 3,32,32 or 3,224,224")
    ] = None,
    min_keep: opt.MinKeep = 0.1,
    min_width: opt.MinWidth = 1,
    round_to: opt.RoundTo = ["1"],  # noqa: B006
    exclude: opt.Exclude = [],  # noqa: B006
    gentle_ends: opt.GentleEnds = False,
    allow_drop: opt.AllowDrop = False,
    show_all: Annotated[
        bool, typer.Option("--all", help="A line for every unit: similar ones are not folded")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs")] = False,
) -> None:
    """Show the units of a network, what is frozen and why, and what they cost.

    Every unit is verified against its masked twin before it is listed.
    """
    import torch

    from amc.config import Bounds, parse_multiples
    from amc.find import find_units
    from amc.inspection import describe, print_inspection
    from amc.models import build_model

    bounds = Bounds.parse(
        {
            "min_keep": min_keep,
            "min_width": min_width,
            "round_to": parse_multiples(round_to),
            "exclude": exclude,
            "gentle_ends": gentle_ends,
            "allow_drop": allow_drop,
        }
    )
    network = build_model(_model_config(model, weights, model_arg))
    example = torch.randn(
        1, *_shape(input_shape, model), generator=torch.Generator().manual_seed(0)
    )
    with _bar(quiet=as_json) as bar:
        units = find_units(network, example, **bounds.model_dump(), on_unit=bar.unit)
    description = describe(model, units)
    if as_json:
        print(json.dumps(description, indent=1))
    else:
        print_inspection(console, description, folded=not show_all)


@app.command()
def search(
    model: opt.Spec,
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
    min_keep: opt.MinKeep = 0.1,
    min_width: opt.MinWidth = 1,
    round_to: opt.RoundTo = ["1"],  # noqa: B006
    exclude: opt.Exclude = [],  # noqa: B006
    gentle_ends: opt.GentleEnds = False,
    allow_drop: opt.AllowDrop = False,
    importance: opt.Importance = "contribution",
    policy: opt.Policy = None,
    agent: opt.Agent = "ddpg",
    preset: opt.Preset = "default",
    episodes: opt.Episodes = None,
    reward: opt.Reward = "kl",
    constraint: opt.Constraint = "projection",
    images: opt.Images = 1000,
    calibration_images: opt.CalibrationImages = 256,
    epochs: opt.Epochs = 15,
    lr: opt.LearningRate = 0.05,
    run: opt.NewRun = None,
    seed: opt.Seed = 0,
    bf16: opt.Bf16 = None,
    device: opt.Device = "cpu",
    threads: opt.Threads = None,
) -> None:
    """Train the agent, find the best plan, prune the network for real, and finetune it.

    Everything is written to the run's folder as it happens. Watch it grow:

        tensorboard --logdir runs

    A range of budgets gives a front of plans, `--min-accuracy` the cheapest network of that
    accuracy, and `--policy RUN --episodes 0` what a policy has learned elsewhere:

        amc search MODEL --budget flops=0.3:0.8

        amc search MODEL --min-accuracy 0.9

        amc search MODEL --budget flops=0.42 --policy runs/NAME --episodes 0

    Ctrl-C ends a search early with the best plan so far; `amc finetune RUN` goes on from there.
    """
    from amc.config import DataConfig, FinetuneConfig, parse_multiples
    from amc.pipeline import make_config
    from amc.pipeline import search as find_plan
    from amc.report import front_table, write_report
    from amc.run import RunFolder, check_free, free_name
    from amc.task import image_task

    _set_threads(threads)
    model_config = _model_config(model, weights, model_arg)
    data_config = DataConfig.parse(
        _given(spec=data, search_val=search_val, image_size=image_size, download=download)
    )
    aimless = min_accuracy is None
    config = make_config(
        [] if no_budget else budget or (["flops=0.5"] if aimless else []),
        **_given(
            min_accuracy=min_accuracy,
            minimise=minimise,
            policy=policy,
            model=model_config,
            data=data_config,
            episodes=episodes,
            seed=seed,
            agent=agent,
            preset=preset,
            reward="amc-flops" if no_budget and aimless and reward == "kl" else reward,
            constraint=constraint,
            importance=importance,
            min_keep=min_keep,
            min_width=min_width,
            round_to=parse_multiples(round_to),
            exclude=tuple(exclude),
            gentle_ends=gentle_ends,
            allow_drop=allow_drop,
            evaluate=_given(images=images, calibration_images=calibration_images, bf16=bf16),
            device=device,
            threads=threads,
        ),
    )
    recipe = FinetuneConfig.parse(_given(epochs=epochs, lr=lr, seed=seed, bf16=bf16))
    path = run or free_name(Path("runs"), _run_name(config))
    check_free(path)  # before the images are read
    task = image_task(model_config, data_config, config.evaluate, seed=seed, device=device)
    console.print(f"run folder  {path}   (watch it: tensorboard --logdir {path.parent})")
    with _bar(episodes=config.episodes or None) as bar:
        result = find_plan(task, config=config, run=path, on_unit=bar.unit, on_episode=bar.episode)
    best = result.best
    console.print(
        f"best plan   {best.kept_macs:.2%} of the MACs, {best.kept_params:.2%} of the parameters; "
        f"search-val accuracy {best.quality.get('accuracy', float('nan')):.3f}, "
        f"reward {best.reward:.4f} (episode {best.number} of {len(result.history)})"
    )
    folder = RunFolder.open(path)
    if result.interrupted:
        write_report(path)
        console.print(
            f"interrupted after {len(result.history)} episodes; the best plan so far is "
            f"{folder.plan}\nprune and finetune it: amc finetune {path}"
        )
        raise typer.Exit(130)
    if result.front is not None:
        console.print(front_table(result.front))
    floor, reached = config.min_accuracy, best.quality.get("accuracy", 0.0)
    if floor is not None and reached < floor:
        write_report(path)
        raise BudgetError(
            f"none of the {len(result.history)} plans has an accuracy of {floor:g}; the best has "
            f"{reached:.4f} (kept as {folder.plan}). Try more episodes, or finetune that one: "
            f"amc finetune {path}"
        )
    _recover(task, folder, recipe)


@app.command()
def apply(
    source: Annotated[
        Path, typer.Argument(metavar="RUN-or-plan.json", help="Folder of a run, or a plan's file")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Network to write, for a plan's file: pruned.safetensors")
    ] = None,
    weights: opt.Weights = None,
    budget: opt.Choice = [],  # noqa: B006
    allow_factory: opt.AllowFactory = False,
) -> None:
    """Slice the plan from the original weights, verify it against its masked twin, and save it.

    For a run, BatchNorm is recalibrated and the result tested; for a bare plan.json the sliced
    weights are saved as they are.
    """
    from amc.config import FinetuneConfig
    from amc.recover import apply_file, choose, open_task
    from amc.run import RunFolder

    if source.is_dir():
        folder = choose(RunFolder.open(source), budget)
        task = open_task(folder, allow_factory=allow_factory)
        _recover(task, folder, FinetuneConfig(epochs=0))
        return
    target = out or source.with_name("pruned.safetensors")
    error = apply_file(source, target, weights=weights, allow_factory=allow_factory)
    console.print(f"verified (relative error {error:.1e}), saved as {target}")


@app.command()
def finetune(
    run: opt.Run,
    budget: opt.Choice = [],  # noqa: B006
    epochs: opt.Epochs = 15,
    lr: opt.LearningRate = 0.05,
    batch_size: opt.BatchSize = 128,
    distill_weight: opt.DistillWeight = 0.7,
    distill_temperature: opt.DistillTemperature = 4.0,
    seed: opt.Seed = 0,
    threads: opt.Threads = None,
    allow_factory: opt.AllowFactory = False,
) -> None:
    """Slice a run's best plan and recover its accuracy, with the dense network as teacher."""
    from amc.config import FinetuneConfig
    from amc.recover import choose, open_task
    from amc.run import RunFolder

    _set_threads(threads)
    recipe = FinetuneConfig.parse(
        {
            "epochs": epochs,
            "lr": lr,
            "batch_size": batch_size,
            "distill_weight": distill_weight,
            "distill_temperature": distill_temperature,
            "seed": seed,
        }
    )
    folder = choose(RunFolder.open(run), budget)
    _recover(open_task(folder, allow_factory=allow_factory), folder, recipe)


@app.command()
def export(
    source: Annotated[
        Path,
        typer.Argument(metavar="RUN-or-FILE", help="Folder of a run, or a .safetensors of ours"),
    ],
    onnx: Annotated[
        Path | None, typer.Option(metavar="OUT.onnx", help="ONNX file to write (extra: onnx)")
    ] = None,
    pt2: Annotated[
        Path | None,
        typer.Option(metavar="OUT.pt2", help="Exported program to write, for torch.export.load"),
    ] = None,
    allow_factory: opt.AllowFactory = False,
) -> None:
    """Write a pruned network for deployment, and check what was written against PyTorch.

    Of a run, that is the finetuned network, or the pruned one where nothing was finetuned. The
    batch size stays free: each file is run at several on random inputs (ONNX in ONNX Runtime), and
    one that differs from PyTorch is not kept. ONNX needs `pip install amc-agent[onnx]`.

        amc export runs/NAME --onnx small.onnx

        amc export small.safetensors --pt2 small.pt2
    """
    from amc.deploy import export_saved
    from amc.run import RunFolder

    if onnx is None and pt2 is None:
        raise ConfigError("nothing to write: give --onnx OUT.onnx, --pt2 OUT.pt2, or both")
    network = RunFolder.open(source).network() if source.is_dir() else source
    with _bar() as bar:
        bar.stage(f"exporting {network}")
        errors = export_saved(network, onnx=onnx, pt2=pt2, allow_factory=allow_factory)
    for path, error in errors.items():
        console.print(
            f"exported    {path}, {path.stat().st_size / 1e6:.2f} MB, "
            f"differs from PyTorch by {error:.1e} at most (relative)",
            highlight=False,
            soft_wrap=True,
        )


@app.command()
def report(run: opt.Run) -> None:
    """Write the run's page, report.html, again."""
    from amc.report import write_report

    console.print(f"report      {write_report(run)}")


@app.command()
def demo(
    run: Annotated[Path | None, typer.Option(help="Folder of the run")] = None,
    episodes: Annotated[int, typer.Option(min=1)] = 60,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """The whole path on embedded data: train a small CNN on digits, halve its MACs, recover it."""
    from amc.demo import DEMO_DATA, DEMO_EVALUATE, DEMO_RECIPE, train_dense
    from amc.pipeline import make_config
    from amc.pipeline import search as find_plan
    from amc.run import RunFolder, free_name
    from amc.task import image_task

    _set_threads(1)  # tensors this small gain nothing from more, and lose much on a busy machine
    path = run or free_name(Path("runs"), "demo")
    console.print("[bold]1. a trained network[/]  the small CNN on scikit-learn's digits")
    with _bar() as bar:
        model_config = train_dense(path.parent, seed, on_step=bar.step("training"))
    config = make_config(
        "flops=0.5",
        model=model_config,
        data=DEMO_DATA,
        evaluate=DEMO_EVALUATE,
        episodes=episodes,
        seed=seed,
    )
    task = image_task(model_config, DEMO_DATA, DEMO_EVALUATE, seed=seed, progress=False)
    console.print(f"[bold]2. the search[/]  flops=0.5, {episodes} episodes, into {path}")
    with _bar(episodes=episodes) as bar:
        find_plan(task, config=config, run=path, on_unit=bar.unit, on_episode=bar.episode)
    console.print("[bold]3. the pruned network[/]  sliced, verified, finetuned")
    _recover(task, RunFolder.open(path), DEMO_RECIPE)


def main() -> None:
    """Run the command line: one clear line for an error, a traceback only with --debug."""
    warnings.showwarning = _warn
    try:
        sys.exit(app(standalone_mode=False))  # the code of typer.Exit; None where all went well
    except (typer.Abort, KeyboardInterrupt):
        _fail("interrupted; what the run folder holds is complete up to here", 130)
    except AMCError as error:
        _fail(str(error), 1)
    except OSError as error:  # a full disk, a folder without permission
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}; what was written before is still sound", 1)
    except Exception as error:
        if hasattr(error, "show"):  # a wrong option or argument
            error.show()
            sys.exit(2)
        raise


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    text = str(message).splitlines()[0]
    Console(stderr=True).print(f"[yellow]warning[/]: {text}", highlight=False, soft_wrap=True)


def _fail(message: str, code: int) -> None:
    if _debug:
        traceback.print_exc()
    Console(stderr=True).print(f"[bold red]error[/]: {message}", highlight=False, soft_wrap=True)
    sys.exit(code)


def _recover(task: Any, folder: Any, recipe: FinetuneConfig) -> None:
    """Slice, finetune and report, with a bar and the closing table."""
    from amc.plan import Plan
    from amc.recover import recover
    from amc.report import results_table

    with _bar() as bar:
        results = recover(
            task,
            Plan.load(folder.plan),
            recipe,
            folder,
            on_stage=bar.stage,
            on_epoch=bar.epoch,
            on_step=bar.step("finetune"),
        )
    console.print(results_table(results))
    if results.epochs:
        last, best = results.epochs[-1], max(results.epochs, key=lambda e: e.test_accuracy)
        console.print(
            f"finetuned   {last.test_accuracy:.2%} after the last epoch (kept), "
            f"{best.test_accuracy:.2%} after the best, {best.number}",
            highlight=False,
        )
    console.print(f"network     {folder.finetuned if results.epochs else folder.pruned}")
    console.print(f"report      {folder.report}")


def _bar(*, quiet: bool = False, episodes: int | None = None) -> Any:
    from amc.progress import Bar

    return Bar(quiet=quiet, episodes=episodes)


def _given(**values: Any) -> dict[str, Any]:
    """The values that were given: settings have their own defaults."""
    return {name: value for name, value in values.items() if value is not None}


def _model_config(spec: str, weights: str | None, arguments: list[str]) -> Any:
    from amc.config import ModelConfig

    values = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"--model-arg {argument!r}: write KEY=VALUE")
        try:
            values[key] = json.loads(value)
        except json.JSONDecodeError:
            values[key] = value
    return ModelConfig.parse(_given(spec=spec, weights=weights, arguments=values))


def _shape(text: str | None, spec: str) -> tuple[int, ...]:
    from amc.models import example_shape

    if text is None:
        return example_shape(spec)
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--input {text!r}: write C,H,W, for example 3,224,224") from None


def _run_name(config: SearchConfig) -> str:
    name = config.model.spec.rpartition(":")[2] if config.model else "model"
    aims = [limits_name(config.budget)] if config.budget else []
    aims += [f"accuracy{config.min_accuracy:g}"] if config.min_accuracy is not None else []
    agent = "replay" if not config.episodes else config.agent
    parts = [name, *(aims or [config.reward]), *([] if agent == "ddpg" else [agent])]
    return "-".join([*parts, f"seed{config.seed}"])


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
