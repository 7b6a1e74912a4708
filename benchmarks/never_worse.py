"""Is a network ever worse for its finetuning? Many of them, with all defaults, on anything.

Small networks (plain, without BatchNorm, residual) on 200, 600 and 2,000 generated images of three
kinds, ``amc:smallcnn`` on the digits, and, where ``--weights`` are given, ResNet-20 on a part of
CIFAR-10 with a short training. Each dense network is trained once by the project's own
``finetune``, pruned to 30%, 50% and 70% of its MACs by the reference plan, and finetuned.
Search-val and test accuracy before and after are lines of ``results/never-worse.jsonl``; those that
are there are not done again.

    python benchmarks/never_worse.py --weights W --images DIR --search-val FILE
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, add_inputs, append_line, configs, data_config, read_lines
from finetuning_common import (
    Lines,
    fewer,
    finetuned,
    parse_or_report,
    percent,
    plan_file,
    planned,
    right,
)
from generated_images import KINDS, SIZES, generated
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from amc.config import DataConfig, FinetuneConfig, ModelConfig
from amc.models.factory import build_model
from amc.pruning.apply import apply_plan
from amc.task import Task
from amc.training.finetune import finetune
from amc.vision.data import ImageData
from amc.vision.sources import load_data
from amc.vision.task import image_task

NETWORKS = ("plain", "bare", "residual")
DENSE_EPOCHS = {200: 40, 600: 25, 2000: 12}
CIFAR_TRAINING, CIFAR_TEST, CIFAR_EPOCHS = 4000, 2000, 2
FAMILIES = ("generated", "digits", "cifar")


@dataclass(frozen=True)
class Case:
    """A dense network with its images, and the seed of all."""

    name: str
    family: str
    seed: int
    open: Callable[[], tuple[Task, ImageData]]
    recipe: FinetuneConfig


def main() -> None:
    """Finetune what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_inputs(parser, required=False)
    parser.add_argument("--families", nargs="+", default=FAMILIES, choices=FAMILIES)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--budgets", type=float, nargs="+", default=(0.3, 0.5, 0.7))
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    arguments = parse_or_report(parser, RESULTS / "never-worse.jsonl", report)
    done = {(x["case"], x["seed"], x["budget"]) for x in read_lines(arguments.results)}
    for case in cases(arguments):
        missing = [b for b in arguments.budgets if (case.name, case.seed, b) not in done]
        if not missing:
            continue
        task, data = case.open()
        dense = float(right(task.model, data, data.test, arguments.device).mean())
        for budget in missing:
            name = f"{case.name}-seed{case.seed}"
            kept_in = plan_file(arguments.work, name, task, f"flops={budget}")
            plan, _ = planned(task, kept_in, f"flops={budget}")
            key = {"case": case.name, "family": case.family, "seed": case.seed, "budget": budget}
            outcome = finetuned(
                task, data, apply_plan(plan, task).model, case.recipe, arguments.device
            )
            line = {**key, "dense_test": dense, **outcome}
            append_line(arguments.results, line)
            print(_told(line), flush=True)
    report(arguments.results)


# -- cases ---------------------------------------------------------------------------------------


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Those that the options ask for, all of a seed before the next."""
    if "cifar" in arguments.families and arguments.weights is None:
        print("no --weights: ResNet-20 is left out")
    for seed in arguments.seeds:
        if "generated" in arguments.families:
            for (row, network), (column, size) in itertools.product(
                enumerate(NETWORKS), enumerate(arguments.sizes)
            ):
                # Each seed has other kinds; three seeds have all.
                kind = list(KINDS)[(row + column + seed) % len(KINDS)]
                yield _on_generated(arguments, network, kind, size, seed)
        if "digits" in arguments.families:
            yield _on_digits(arguments, seed)
    if "cifar" in arguments.families and arguments.weights is not None:
        yield _on_cifar(arguments)


def _on_generated(
    arguments: argparse.Namespace, network: str, kind: str, size: int, seed: int
) -> Case:
    spec = f"{Path(__file__).with_name('small_networks.py')}:{network}"
    name = f"{network}-{kind}-{size}"
    # Without BatchNorm a rate that others need ruins the network before it has begun.
    rate: dict[str, Any] = (
        {"optimizer": "adamw", "lr": 0.002} if network == "bare" else {"lr": 0.05}
    )
    training = FinetuneConfig(epochs=DENSE_EPOCHS[size], distill_weight=0, seed=seed, **rate)

    def opened() -> tuple[Task, ImageData]:
        data = generated(kind, size, seed)
        model = trained(arguments, name, ModelConfig(spec=spec), data, training)
        return image_task(model, data, seed=seed, device=arguments.device), data

    return Case(name, "generated", seed, opened, FinetuneConfig(seed=seed))


def _on_digits(arguments: argparse.Namespace, seed: int) -> Case:
    training = FinetuneConfig(epochs=15, lr=0.1, batch_size=64, distill_weight=0, seed=seed)

    def opened() -> tuple[Task, ImageData]:
        data = load_data(DataConfig(spec="digits", seed=seed), progress=False)
        model = trained(arguments, "digits", ModelConfig(spec="amc:smallcnn"), data, training)
        return image_task(model, data, seed=seed, device=arguments.device), data

    return Case("digits", "digits", seed, opened, FinetuneConfig(seed=seed))


def _on_cifar(arguments: argparse.Namespace) -> Case:
    def opened() -> tuple[Task, ImageData]:
        data = fewer(load_data(data_config(arguments)), CIFAR_TRAINING, CIFAR_TEST)
        return image_task(configs(arguments)[0], data, device=arguments.device), data

    return Case(arguments.network, "cifar", 0, opened, FinetuneConfig(epochs=CIFAR_EPOCHS))


def trained(
    arguments: argparse.Namespace,
    name: str,
    config: ModelConfig,
    data: ImageData,
    recipe: FinetuneConfig,
) -> ModelConfig:
    """``config`` with weights, which are trained unless the work folder has them."""
    path = arguments.work / f"{name}-seed{recipe.seed}.safetensors"
    if not path.exists():
        torch.manual_seed(recipe.seed)
        model = build_model(config, num_classes=len(data.classes), in_channels=len(data.mean))
        finetune(model, data, recipe, teacher=None, device=arguments.device)
        save_file({k: v.contiguous().cpu() for k, v in model.state_dict().items()}, path)
    return config.model_copy(update={"weights": str(path)})


# -- report --------------------------------------------------------------------------------------


def _told(line: dict[str, Any]) -> str:
    return (
        f"{line['case']} at {line['budget']:.0%}, seed {line['seed']}: dense "
        f"{line['dense_test']:.1%}, pruned {line['test_before']:.1%}, finetuned "
        f"{line['test_after']:.1%} ({line['kept']}, rate {line['lr']:g}), {line['seconds']:.0f} s"
    )


def report(path: Path) -> None:
    """What became of them, by family and budget, and over all."""
    lines = read_lines(path)
    table = Table(title=f"{len(lines)} finetunings with all defaults: test accuracy, %")
    for heading in (
        *("case", "MACs", "runs", "dense", "pruned", "finetuned", "gain"),
        *("search-val lower", "test lower by > error", "test higher", "weights kept"),
    ):
        table.add_column(heading, justify="right")
    groups = dict.fromkeys((_group(line), line["budget"]) for line in lines)
    for name, budget in sorted(groups):
        group = [x for x in lines if (_group(x), x["budget"]) == (name, budget)]
        table.add_row(name, f"{budget:.0%}", *_row(group))
    table.add_section()
    if lines:
        table.add_row("all", "", *_row(lines))
    Console(width=150).print(table)
    for line in lines:
        if _lower_val(line) or _lower_test(line):
            print(f"worse: {_told(line)}, error of the difference {line['gain_error']:.2%}")


def _group(line: dict[str, Any]) -> str:
    """Generated images by how many they are."""
    size = line["case"].rpartition("-")[2]
    return f"{int(size):5,} images" if line["family"] == "generated" else line["case"]


def _row(lines: Lines) -> list[str]:
    means = ("dense_test", "test_before", "test_after")
    kept: dict[str, int] = {}
    for line in lines:
        kept[line["kept"]] = kept.get(line["kept"], 0) + 1
    return [
        str(len(lines)),
        *(f"{100 * statistics.fmean(x[name] for x in lines):.1f}" for name in means),
        percent([x["test_after"] - x["test_before"] for x in lines], "+.1f"),
        str(sum(map(_lower_val, lines))),
        str(sum(map(_lower_test, lines))),
        f"{sum(x['test_after'] > x['test_before'] for x in lines) / len(lines):.0%}",
        ", ".join(f"{name} {count}" for name, count in sorted(kept.items())),
    ]


def _lower_val(line: dict[str, Any]) -> bool:
    return bool(line["val_after"] < line["val_before"])


def _lower_test(line: dict[str, Any]) -> bool:
    return bool(line["test_before"] - line["test_after"] > line["gain_error"])


if __name__ == "__main__":
    main()
