"""The command line. Every command is a thin wrapper over one function; heavy imports are inside."""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from amc.errors import AMCError, ConfigError

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

_PLAN, _AGENT, _TUNING, _RUN = "The plan", "The agent", "Finetuning", "The run"
"""Panels of the help pages."""

Spec = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="amc:NAME, torchvision:NAME, timm:NAME or path/to/file.py:function",
    ),
]
Weights = Annotated[
    str | None, typer.Option(help="Trained weights: .safetensors, or .pth / .pt holding tensors")
]
ModelArg = Annotated[
    list[str], typer.Option("--model-arg", help="Argument of the model's factory, KEY=VALUE")
]
Exclude = Annotated[
    list[str],
    typer.Option(
        help="Unit or layer to leave alone, by name or shell pattern", rich_help_panel=_PLAN
    ),
]
MinKeep = Annotated[
    float,
    typer.Option(min=0, max=1, help="Least kept fraction of a unit", rich_help_panel=_PLAN),
]
RoundTo = Annotated[
    int, typer.Option(min=1, help="Kept widths are multiples of this", rich_help_panel=_PLAN)
]
Epochs = Annotated[
    int, typer.Option(min=0, help="Epochs; 0: no finetuning", rich_help_panel=_TUNING)
]
LearningRate = Annotated[
    float, typer.Option("--lr", help="Peak learning rate", rich_help_panel=_TUNING)
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; default: all", rich_help_panel=_RUN)
]
AllowFactory = Annotated[
    bool, typer.Option("--allow-factory", help="Run the Python file that the run or plan names")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, runs/NAME")]


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error")] = False,
) -> None:
    global _debug
    _debug = debug


@app.command()
def inspect(
    model: Spec,
    weights: Weights = None,
    model_arg: ModelArg = [],  # noqa: B006 (typer reads the default)
    input_shape: Annotated[
        str | None, typer.Option("--input", help="Input shape C,H,W; default: 3,32,32 or 3,224,224")
    ] = None,
    min_keep: MinKeep = 0.1,
    round_to: RoundTo = 1,
    exclude: Exclude = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs")] = False,
) -> None:
    """Show the units of a network, what is frozen and why, and what they cost.

    Every unit is verified by itself against a masked twin before it is listed.
    """
    import torch

    from amc.find import find_units
    from amc.inspection import describe, print_inspection
    from amc.models import build_model

    network = build_model(_model_config(model, weights, model_arg))
    example = torch.randn(
        1, *_shape(input_shape, model), generator=torch.Generator().manual_seed(0)
    )
    with _bar(quiet=as_json) as bar:
        units = find_units(
            network,
            example,
            min_keep=min_keep,
            round_to=round_to,
            exclude=exclude,
            on_unit=bar.unit,
        )
    description = describe(model, units)
    if as_json:
        print(json.dumps(description, indent=1))
    else:
        print_inspection(console, description)


@app.command()
def search(
    model: Spec,
    weights: Weights = None,
    model_arg: ModelArg = [],  # noqa: B006
    data: Annotated[
        str, typer.Option(help="digits, imagefolder:DIR (train/ and test/) or cifar10:DIR")
    ] = "digits",
    search_val: Annotated[
        str | None, typer.Option(help="File of search-val paths, or the fraction to hold out")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Resize folder images to this side")
    ] = None,
    download: Annotated[bool, typer.Option("--download", help="Let cifar10 be downloaded")] = False,
    budget: Annotated[
        list[str],
        typer.Option(
            help="Upper bound, flops=0.5 (fraction) or params=1.2M; repeatable",
            rich_help_panel=_PLAN,
        ),
    ] = ["flops=0.5"],  # noqa: B006
    no_budget: Annotated[
        bool,
        typer.Option(
            "--no-budget", help="Weigh error against cost (amc-flops)", rich_help_panel=_PLAN
        ),
    ] = False,
    min_keep: MinKeep = 0.1,
    round_to: RoundTo = 1,
    exclude: Exclude = [],  # noqa: B006
    importance: Annotated[
        str,
        typer.Option(help="How channels are ranked: contribution, l1 or l2", rich_help_panel=_PLAN),
    ] = "contribution",
    agent: Annotated[
        str, typer.Option(help="ddpg, random or uniform", rich_help_panel=_AGENT)
    ] = "ddpg",
    preset: Annotated[
        str, typer.Option(help="Settings: default or amc-paper", rich_help_panel=_AGENT)
    ] = "default",
    episodes: Annotated[
        int | None,
        typer.Option(min=1, help="Plans to try; default: the preset's", rich_help_panel=_AGENT),
    ] = None,
    reward: Annotated[
        str,
        typer.Option(
            help="kl, accuracy, cross_entropy; without budget amc-flops, amc-params",
            rich_help_panel=_AGENT,
        ),
    ] = "kl",
    constraint: Annotated[
        str,
        typer.Option(
            help="projection, or sequential (the AMC paper's Algorithm 1)", rich_help_panel=_AGENT
        ),
    ] = "projection",
    images: Annotated[
        int,
        typer.Option(min=1, help="Search-val images that score a plan", rich_help_panel=_AGENT),
    ] = 1000,
    calibration_images: Annotated[
        int,
        typer.Option(
            min=0,
            help="Training images that re-estimate BatchNorm statistics",
            rich_help_panel=_AGENT,
        ),
    ] = 256,
    epochs: Epochs = 15,
    lr: LearningRate = 0.05,
    run: Annotated[
        Path | None,
        typer.Option(help="Folder of the run; default: a new one in runs/", rich_help_panel=_RUN),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of everything that is drawn", rich_help_panel=_RUN)
    ] = 0,
    bf16: Annotated[
        bool | None,
        typer.Option(
            "--bf16/--no-bf16",
            help="Default: where the hardware has it",
            rich_help_panel=_RUN,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda", rich_help_panel=_RUN)] = "cpu",
    threads: Threads = None,
) -> None:
    """Train the agent, find the best plan, prune the network for real, and finetune it.

    Everything is written to the run's folder as it happens. Watch it grow:

        tensorboard --logdir runs

    Ctrl-C ends a search early with the best plan so far; `amc finetune RUN` goes on from there.
    """
    from amc.config import DataConfig, FinetuneConfig
    from amc.pipeline import make_config
    from amc.pipeline import search as find_plan
    from amc.run import RunFolder, free_name
    from amc.task import image_task

    _set_threads(threads)
    model_config = _model_config(model, weights, model_arg)
    data_config = DataConfig.parse(
        _given(spec=data, search_val=search_val, image_size=image_size, download=download)
    )
    config = make_config(
        [] if no_budget else budget,
        **_given(
            model=model_config,
            data=data_config,
            episodes=episodes,
            seed=seed,
            agent=agent,
            preset=preset,
            reward="amc-flops" if no_budget and reward == "kl" else reward,
            constraint=constraint,
            importance=importance,
            min_keep=min_keep,
            round_to=round_to,
            exclude=tuple(exclude),
            evaluate=_given(images=images, calibration_images=calibration_images, bf16=bf16),
            device=device,
            threads=threads,
        ),
    )
    recipe = FinetuneConfig.parse(_given(epochs=epochs, lr=lr, seed=seed, bf16=bf16))
    task = image_task(model_config, data_config, config.evaluate, seed=seed, device=device)
    path = run or free_name(Path("runs"), _run_name(config))
    console.print(f"run folder  {path}   (watch it: tensorboard --logdir {path.parent})")
    with _bar(episodes=config.episodes) as bar:
        result = find_plan(task, config=config, run=path, on_unit=bar.unit, on_episode=bar.episode)
    best = result.best
    console.print(
        f"best plan   {best.kept_macs:.2%} of the MACs, {best.kept_params:.2%} of the parameters; "
        f"search-val accuracy {best.quality.get('accuracy', float('nan')):.3f}, "
        f"reward {best.reward:.4f} (episode {best.number} of {len(result.history)})"
    )
    folder = RunFolder.open(path)
    if result.interrupted:
        from amc.report import write_report

        write_report(path)
        console.print(
            f"interrupted after {len(result.history)} episodes; the best plan so far is "
            f"{folder.plan}\nprune and finetune it: amc finetune {path}"
        )
        raise typer.Exit(130)
    _recover(task, folder, recipe)


@app.command()
def apply(
    source: Annotated[
        Path, typer.Argument(metavar="RUN-or-plan.json", help="Folder of a run, or a plan's file")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Network to write, for a plan's file: pruned.safetensors")
    ] = None,
    weights: Weights = None,
    allow_factory: AllowFactory = False,
) -> None:
    """Slice the plan from the original weights, verify it against its masked twin, and save it.

    For a run, BatchNorm is recalibrated and the result tested; for a bare plan.json the sliced
    weights are saved as they are.
    """
    from amc.config import FinetuneConfig
    from amc.recover import apply_file, open_task
    from amc.run import RunFolder

    if source.is_dir():
        folder = RunFolder.open(source)
        task = open_task(folder, allow_factory=allow_factory)
        _recover(task, folder, FinetuneConfig(epochs=0))
        return
    target = out or source.with_name("pruned.safetensors")
    error = apply_file(source, target, weights=weights, allow_factory=allow_factory)
    console.print(f"verified (relative error {error:.1e}), saved as {target}")


@app.command()
def finetune(
    run: Run,
    epochs: Epochs = 15,
    lr: LearningRate = 0.05,
    batch_size: Annotated[int, typer.Option(min=1, rich_help_panel=_TUNING)] = 128,
    distill_weight: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Weight of the dense network's softened logits",
            rich_help_panel=_TUNING,
        ),
    ] = 0.7,
    distill_temperature: Annotated[
        float, typer.Option(min=0.1, help="How much they are softened", rich_help_panel=_TUNING)
    ] = 4.0,
    seed: Annotated[int, typer.Option(help="Of shuffling and augmentation")] = 0,
    threads: Threads = None,
    allow_factory: AllowFactory = False,
) -> None:
    """Slice a run's best plan and recover its accuracy, with the dense network as teacher."""
    from amc.config import FinetuneConfig
    from amc.recover import open_task
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
    folder = RunFolder.open(run)
    _recover(open_task(folder, allow_factory=allow_factory), folder, recipe)


@app.command()
def report(run: Run) -> None:
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
    try:
        app(standalone_mode=False)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except typer.Abort:
        _fail("interrupted", 130)
    except KeyboardInterrupt:
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
    console.print(f"network     {folder.model}")
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
    limits = "-".join(f"{key}{value}" for key, value in config.budget.items()) or config.reward
    agent = "" if config.agent == "ddpg" else f"-{config.agent}"
    return f"{name}-{limits}{agent}-seed{config.seed}"


def _set_threads(threads: int | None) -> None:
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


if __name__ == "__main__":
    main()
