"""What is finetuning worth, and which of its parts? One plan, trained again in several ways.

ResNet-20 at half the MACs, with the plan of ``--plan`` or the reference plan. The arms are

- ``ours``: all defaults, the dense network as teacher;
- ``teacher``: ``--teacher SPEC@WEIGHTS`` in its place;
- ``dense``: the dense network, trained on by the same recipe: what pruning costs is the difference;
- ``no-teacher``, ``no-ema``, ``linear``, ``one-cycle``, ``fixed-rate``: one part of the recipe
  changed at a time;
- ``stages``: pruned and finetuned in three stages, in as many epochs together, by plans of its own;
- ``narrow``: no pruning: a ResNet-20 that is so much narrower that it has at most as many MACs,
  from random weights, with the same teacher and recipe, for ``--narrow-epochs``.

A line for each arm and seed in ``results/finetuning.jsonl``; those that are there are not done
again.

    python benchmarks/finetuning.py --weights W --images DIR --search-val FILE --epochs 15
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import importlib
import importlib.util
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, add_inputs, append_line, configs, data_config, read_lines
from finetuning_common import (
    Lines,
    add_sizes,
    fewer,
    finetuned,
    on_device,
    parse_or_report,
    percent,
    plan_file,
    planned,
    right,
)
from narrow_networks import narrower
from rich.console import Console
from rich.table import Table
from torch import nn

from amc.config import FinetuneConfig
from amc.models.factory import build_model
from amc.pruning.apply import apply_plan
from amc.pruning.plan import Plan
from amc.task import Task
from amc.vision.data import ImageData
from amc.vision.sources import load_data
from amc.vision.task import image_task

ARMS: dict[str, dict[str, Any]] = {
    "ours": {},
    "teacher": {},
    "dense": {},
    "no-teacher": {"distill_weight": 0.0},
    "no-ema": {"ema": 0.0},
    "linear": {"schedule": "linear"},
    "one-cycle": {"schedule": "one-cycle"},
    "fixed-rate": {"lr": 0.05},
    "stages": {"stages": 3},
    "narrow": {},
}
"""What each changes of the recipe."""
STAGES = "amc.pipeline.stages"


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """What all arms share."""

    arguments: argparse.Namespace
    task: Task
    data: ImageData
    plan: Plan
    test_dense: float


def options() -> argparse.ArgumentParser:
    """Those of this benchmark, which ``gpu.py`` has too."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_inputs(parser)
    add_sizes(parser, epochs=15, seeds=(0, 1))
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--plan", type=Path, help="a plan.json; default: the reference plan")
    parser.add_argument("--teacher", help="SPEC@WEIGHTS, of the arm teacher")
    parser.add_argument("--narrow-epochs", type=int, help="default: --epochs")
    parser.add_argument("--compile", action="store_true")
    return parser


def main() -> None:
    """Train what is missing, then report."""
    arguments = parse_or_report(options(), RESULTS / "finetuning.jsonl", report)
    done = {_identity(line) for line in read_lines(arguments.results)}
    bench = opened(arguments)
    for key, recipe in wanted(bench):
        if _identity(key) in done:
            continue
        print(f"{key['arm']}, seed {key['seed']}", flush=True)
        outcome = _trained(bench, key["arm"], recipe)
        if outcome is not None:
            given = recipe.model_dump(exclude_defaults=True, exclude={"teacher"})
            append_line(arguments.results, {**key, **outcome, "recipe": given})
    report(arguments.results)


def opened(arguments: argparse.Namespace) -> Bench:
    """Network, images and plan."""
    data = fewer(
        load_data(data_config(arguments)), arguments.training_images, arguments.test_images
    )
    data = on_device(data, arguments.device)
    task = image_task(configs(arguments)[0], data, device=arguments.device)
    file = plan_file(arguments.work, arguments.network, task, arguments.budget)
    plan, _ = planned(task, arguments.plan or file, arguments.budget)
    test_dense = float(right(task.model, data, data.test, arguments.device).mean())
    return Bench(arguments, task, data, plan, test_dense)


def wanted(bench: Bench) -> Iterator[tuple[dict[str, Any], FinetuneConfig]]:
    """What identifies each training, and its recipe: a seed after the other."""
    arguments = bench.arguments
    for seed in arguments.seeds:
        for arm in arguments.arms:
            epochs = arguments.epochs
            if arm == "narrow" and arguments.narrow_epochs:
                epochs = arguments.narrow_epochs
            if arm == "teacher" and arguments.teacher is None:
                print("teacher: left out, give --teacher SPEC@WEIGHTS")
                continue
            recipe = FinetuneConfig(
                **{"epochs": epochs, "seed": seed, **ARMS[arm]},
                teacher=arguments.teacher if arm == "teacher" else None,
                batch_size=arguments.batch_size,
                compile=arguments.compile,
            )
            yield (
                {
                    **{"network": arguments.network, "arm": arm, "seed": seed, "epochs": epochs},
                    "training_images": len(bench.data.train),
                    "test_images": len(bench.data.test),
                    "asked_batch": arguments.batch_size,
                    "macs": bench.plan.kept["macs"],
                    "widths": list(bench.plan.widths()),
                    "test_dense": bench.test_dense,
                },
                recipe,
            )


def _identity(line: dict[str, Any]) -> tuple[Any, ...]:
    return (*setting(line), line["arm"], line["seed"], line["epochs"])


def setting(line: dict[str, Any]) -> tuple[Any, ...]:
    """What must be equal for two lines to compare."""
    names = ("network", "training_images", "test_images", "asked_batch", "macs")
    return (*(line[name] for name in names), *line["widths"])


# -- arms ----------------------------------------------------------------------------------------


def _trained(bench: Bench, arm: str, recipe: FinetuneConfig) -> dict[str, Any] | None:
    if arm == "stages":
        return _in_stages(bench, recipe)
    start: Callable[[Bench], tuple[nn.Module, dict[str, Any]]] = {
        "dense": _dense,
        "narrow": _narrow,
    }.get(arm, _pruned)
    if arm == "narrow":
        torch.manual_seed(recipe.seed)
    model, fields = start(bench)
    device = bench.arguments.device
    return fields | finetuned(bench.task, bench.data, model, recipe, device, verbose=True)


def _pruned(bench: Bench) -> tuple[nn.Module, dict[str, Any]]:
    return apply_plan(bench.plan, bench.task).model, {}


def _dense(bench: Bench) -> tuple[nn.Module, dict[str, Any]]:
    return copy.deepcopy(bench.task.model), {"macs_kept": 1.0}


def _narrow(bench: Bench) -> tuple[nn.Module, dict[str, Any]]:
    assert bench.task.config is not None
    config = narrower(bench.task.config, bench.task.example_inputs, bench.plan.costs["macs"])
    share = config.macs / bench.plan.dense_costs["macs"]
    fields = {"macs_kept": share, "stage_widths": list(config.widths)}
    return build_model(config.model).to(bench.arguments.device), fields


def _in_stages(bench: Bench, recipe: FinetuneConfig) -> dict[str, Any] | None:
    """As the pipeline does it, with the reference plan of each stage."""
    if importlib.util.find_spec(STAGES) is None:
        print("stages: left out, this version has none")
        return None
    from amc.pipeline.assignment import Listener
    from amc.pipeline.search import make_config

    stages = importlib.import_module(STAGES)
    name = f"stages-{len(bench.data.train)}-{recipe.epochs}-{recipe.batch_size}-{recipe.seed}"
    path = bench.arguments.work / name
    config = make_config(
        bench.arguments.budget,
        **{"model": bench.task.config, "agent": "reference", "episodes": recipe.stages},
        **{"finetune": recipe, "seed": recipe.seed, "device": bench.arguments.device},
    )
    silent = Listener(None, None, None, print)
    results = stages.prune_in_stages(bench.task, path, config, silent, stages.OnTraining())
    pruned, tuned = results.row("pruned"), results.row("finetuned")
    return {
        "macs_kept": tuned.costs["macs"] / bench.plan.dense_costs["macs"],
        "val_before": pruned.search_val_accuracy,
        "val_after": tuned.search_val_accuracy,
        "test_before": pruned.test_accuracy,
        "test_after": tuned.test_accuracy,
        "kept": results.kept,
        "lr": results.recipe.lr,
        "seconds": sum(epoch.seconds for epoch in results.epochs),
    }


# -- report --------------------------------------------------------------------------------------


def report(path: Path) -> None:
    """A table for each setting, of all that was trained alike."""
    lines = read_lines(path)
    for one in dict.fromkeys(map(setting, lines)):
        alike = [line for line in lines if setting(line) == one]
        for epochs in dict.fromkeys(line["epochs"] for line in alike if line["arm"] != "narrow"):
            Console(width=150).print(_table(alike, epochs))


def _table(lines: Lines, epochs: int) -> Table:
    first = lines[0]
    table = Table(
        title=f"{first['network']} at {first['macs']:.1%} of its MACs, {epochs} epochs on "
        f"{first['training_images']:,} images: test accuracy, % (the checkpoint: "
        f"{100 * first['test_dense']:.2f})"
    )
    differences = ("minus dense trained on", "minus checkpoint")
    for heading in (
        *("arm", "MACs", "seeds", "before", "after", *differences),
        *("rate", "kept", "seconds"),
    ):
        table.add_column(heading, justify="right")
    dense = {x["seed"]: x for x in lines if x["arm"] == "dense" and x["epochs"] == epochs}
    for arm in ARMS:
        of_arm = [
            x for x in lines if x["arm"] == arm and (arm == "narrow" or x["epochs"] == epochs)
        ]
        for spent in sorted({x["epochs"] for x in of_arm}):
            group = [x for x in of_arm if x["epochs"] == spent]
            name = arm if spent == epochs else f"{arm}, {spent} epochs"
            table.add_row(name, *_row(group, {} if arm == "dense" else dense))
    return table


def _row(group: Lines, dense: dict[int, dict[str, Any]]) -> list[str]:
    # A seed is a seed of the images' order, too: differences are taken seed by seed.
    against = [
        x["test_after"] - dense[x["seed"]]["test_after"] for x in group if x["seed"] in dense
    ]
    return [
        f"{group[0].get('macs_kept', group[0]['macs']):.1%}",
        str(len(group)),
        percent([x["test_before"] for x in group]),
        percent([x["test_after"] for x in group]),
        percent(against, "+.2f"),
        percent([x["test_after"] - x["test_dense"] for x in group], "+.2f"),
        " ".join(f"{rate:g}" for rate in sorted({x["lr"] for x in group})),
        " ".join(sorted({x["kept"] for x in group})),
        f"{statistics.fmean(x['seconds'] for x in group):.0f}",
    ]


if __name__ == "__main__":
    main()
