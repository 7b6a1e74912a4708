"""The command line. Every command is a thin wrapper over one function; heavy imports are inside."""

from __future__ import annotations

import json
import shlex
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
    from amc.results import Results

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
    min_keep: opt.MinKeep = 0.1,
    min_width: opt.MinWidth = 1,
    round_to: opt.RoundTo = ["1"],  # noqa: B006
    exclude: opt.Exclude = [],  # noqa: B006
    gentle_ends: opt.GentleEnds = False,
    allow_drop: opt.AllowDrop = False,
    importance: opt.Importance = None,
    policy: opt.Policy = None,
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

    Everything is written to the run's folder as it happens. Watch it grow:

        tensorboard --logdir runs

    A range of budgets gives a front of plans, `--min-accuracy` the cheapest network of that
    accuracy, and `--policy RUN --episodes 0` what a policy has learned elsewhere:

        amc search MODEL --budget flops=0.3:0.8

        amc search MODEL --min-accuracy 0.9

        amc search MODEL --budget flops=0.42 --policy runs/NAME --episodes 0

    Ctrl-C ends a search early with the best plan so far; `amc finetune RUN` goes on from there.
    A search that was interrupted in whatever way goes on as if it had not been:

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
    if model is None:
        raise ConfigError("name the network to prune: amc search MODEL, or amc search --resume RUN")
    from amc.config import DataConfig, FinetuneConfig, parse_multiples
    from amc.pipeline import make_config
    from amc.run import check_free, free_name
    from amc.task import image_task

    _set_threads(threads)
    model_config = _model_config(model, weights, model_arg)
    data_config = DataConfig.parse(
        _given(spec=data, search_val=search_val, image_size=image_size, download=download)
    )
    recipe = FinetuneConfig.parse(_given(epochs=epochs, lr=lr, seed=seed, bf16=bf16))
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
            evaluate=_given(
                images=images,
                calibration_images=calibration_images,
                bf16=bf16,
                reconstruct=reconstruct,
            ),
            device=device,
            threads=threads,
            workers=workers,
            finetune=recipe,
        ),
    )
    path = run or free_name(Path("runs"), _run_name(config))
    check_free(path)  # before the images are read
    task = image_task(model_config, data_config, config.evaluate, seed=seed, device=device)
    _search(task, path, config)


@app.command()
def compare(
    model: opt.Spec,
    weights: opt.Weights = None,
    model_arg: opt.ModelArg = [],  # noqa: B006 (typer reads the default)
    data: opt.Data = "digits",
    search_val: opt.SearchVal = None,
    image_size: opt.ImageSize = None,
    download: opt.Download = False,
    budget: opt.Budget = ["flops=0.5"],  # noqa: B006
    min_keep: opt.MinKeep = 0.1,
    min_width: opt.MinWidth = 1,
    round_to: opt.RoundTo = ["1"],  # noqa: B006
    exclude: opt.Exclude = [],  # noqa: B006
    gentle_ends: opt.GentleEnds = False,
    allow_drop: opt.AllowDrop = False,
    importance: opt.Importance = None,
    agents: opt.Agents = "expert,ddpg,uniform,random,knapsack,greedy,cma-es,tpe,gp",
    seeds: opt.Seeds = 10,
    evaluations: opt.Evaluations = "20,40,80,150",
    reward: opt.Reward = "kl",
    constraint: opt.Constraint = "projection",
    images: opt.Images = 1000,
    calibration_images: opt.CalibrationImages = 256,
    run: opt.CompareRun = None,
    jobs: opt.Jobs = None,
    bf16: opt.Bf16 = None,
    device: opt.Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs")] = False,
) -> None:
    """Compare the agent with other searchers, at equal numbers of evaluated plans, over seeds.

    Every searcher proposes plans in the same environment, on the same budget; the same images score
    them. Needs `pip install amc-agent[compare]`.

    | agent      | what it does                                                           |
    |------------|------------------------------------------------------------------------|
    | `expert`   | the agent of `amc search`                                              |
    | `ddpg`     | AMC's; `ddpg:amc-paper` with the paper's settings                      |
    | `uniform`  | one plan: the same fraction of every unit                              |
    | `random`   | random plans on the budget                                             |
    | `knapsack` | one plan: the least summed importance lost for the cost                |
    | `greedy`   | changes one unit at a time, and keeps what is better (after NetAdapt)  |
    | `cma-es`   | evolution strategy                                                     |
    | `tpe`      | tree-structured Parzen estimator (optuna)                              |
    | `gp`       | Bayesian optimisation with a Gaussian process (optuna)                 |

    Searches run side by side, each on one core. The folder receives runs.jsonl (a line a search,
    as it ends), compare.md, and compare.svg and compare.png. Interrupted, or for more agents and
    seeds, the same command with --run FOLDER does what is missing:

        amc compare amc:resnet20 --weights W --data imagefolder:DIR --run runs/mine --seeds 20
    """
    from functools import partial

    from amc.compare import compare as run_all
    from amc.compare import tables
    from amc.config import CompareConfig, DataConfig, parse_multiples
    from amc.pipeline import make_config
    from amc.run import free_name
    from amc.task import image_task

    model_config = _model_config(model, weights, model_arg)
    data_config = DataConfig.parse(
        _given(spec=data, search_val=search_val, image_size=image_size, download=download)
    )
    search = make_config(
        budget,
        **_given(
            model=model_config,
            data=data_config,
            reward=reward,
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
            threads=1,
        ),
    )
    config = CompareConfig.parse(
        {
            "agents": agents.split(","),
            "seeds": seeds,
            "evaluations": evaluations.split(","),
            "search": search,
        }
    )
    _set_threads(1)
    path = run or free_name(Path("runs"), f"{_problem_name(search)}-compare")
    make_task = partial(
        image_task, model_config, data_config, search.evaluate, device=device, progress=False
    )
    try:
        with _bar(quiet=as_json) as bar:
            standings = run_all(
                make_task,
                config,
                path,
                workers=jobs,
                on_agent=bar.agent,
                on_note=bar.stage,
            )
    except KeyboardInterrupt:
        console.print(f"interrupted; go on: the same command with --run {path}")
        raise
    if as_json:
        print(json.dumps({"run": str(path), **standings.to_json()}, indent=1))
        return
    for table in tables(standings):
        console.print(table)
    console.print(f"comparison  {path / 'compare.md'}")


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
        threads=1,
        finetune=DEMO_RECIPE,
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


def _resume(
    run: Path, episodes: int | None, device: str | None, threads: int | None, allow_factory: bool
) -> None:
    """Go on with an interrupted search, as ``config.toml`` says that it began."""
    from amc.recover import open_task
    from amc.run import RunFolder

    folder = RunFolder.open(run)
    config = folder.load_config()
    _set_threads(threads or config.threads)
    task = open_task(folder, device=device, allow_factory=allow_factory)
    _search(task, run, config, resume=True, episodes=episodes)


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


def _search(
    task: Any,
    path: Path,
    config: SearchConfig,
    *,
    resume: bool = False,
    episodes: int | None = None,
) -> None:
    """Search into the folder ``path`` and recover the best plan, or do what is missing there."""
    from amc.config import FinetuneConfig
    from amc.pipeline import search as find_plan
    from amc.recover import recovered
    from amc.report import front_table, write_report
    from amc.run import RunFolder

    folder = RunFolder(path)
    command = shlex.join(["amc", "search", "--resume", str(path)])
    if config.model is not None and ".py:" in config.model.spec:
        command += " --allow-factory"
    given = {"resume": True, **_given(episodes=episodes)} if resume else {"config": config}
    console.print(f"run folder  {path}   (watch it: tensorboard --logdir {path.parent})")
    try:
        with _bar(episodes=episodes or config.episodes or None) as bar:
            result = find_plan(
                task,
                run=path,
                on_unit=bar.unit,
                on_episode=bar.episode,
                on_note=bar.note,
                **given,
            )
        best = result.best
        console.print(
            f"best plan   {best.kept_macs:.2%} of the MACs, {best.kept_params:.2%} of the "
            f"parameters; search-val accuracy {best.quality.get('accuracy', float('nan')):.3f}, "
            f"reward {best.reward:.4f} (episode {best.number} of {len(result.history)})"
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
        _recover(task, folder, recipe, done)
    except KeyboardInterrupt:
        if folder.config.is_file():
            console.print(f"go on: {command}")
        raise


def _recover(task: Any, folder: Any, recipe: FinetuneConfig, done: Results | None = None) -> None:
    """Slice, finetune and report, unless that is ``done``; with a bar and the closing table."""
    from amc.plan import Plan
    from amc.recover import recover
    from amc.report import results_table

    if done is None:
        with _bar() as bar:
            done = recover(
                task,
                Plan.load(folder.plan),
                recipe,
                folder,
                on_stage=bar.stage,
                on_epoch=bar.epoch,
                on_step=bar.step("finetune"),
            )
    console.print(results_table(done))
    if done.epochs:
        last, best = done.epochs[-1], max(done.epochs, key=lambda e: e.test_accuracy)
        console.print(
            f"finetuned   {last.test_accuracy:.2%} after the last epoch (kept), "
            f"{best.test_accuracy:.2%} after the best, {best.number}",
            highlight=False,
        )
    console.print(f"network     {folder.finetuned if done.epochs else folder.pruned}")
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
    agent = config.agent if config.episodes else "replay"
    parts = [_problem_name(config), *([] if agent == "expert" else [agent])]
    return "-".join([*parts, f"seed{config.seed}"])


def _problem_name(config: SearchConfig) -> str:
    name = config.model.spec.rpartition(":")[2] if config.model else "model"
    aims = [limits_name(config.budget)] if config.budget else []
    aims += [f"accuracy{config.min_accuracy:g}"] if config.min_accuracy is not None else []
    return "-".join([name, *(aims or [config.reward])])


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
