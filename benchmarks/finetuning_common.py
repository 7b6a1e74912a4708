"""What the benchmarks of finetuning share: their options, plans, measurements and cells of tables.

``add_common`` has ``--images DIR`` already, so that a part of the training images is
``--training-images N``.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from amc.config import FinetuneConfig
from amc.models.weights import weights_sha256
from amc.pipeline.search import search
from amc.pruning.plan import Plan
from amc.task import Epoch, Task
from amc.vision.data import ImageData, Images, Split, stratified_indices
from amc.vision.inference import recognised

WORK = Path("runs/finetuning-benchmarks")
"""Where what takes long to make is kept: dense weights, plans, searches."""

Lines = list[dict[str, Any]]


def parse_or_report(
    parser: argparse.ArgumentParser, results: Path, report: Callable[[Path], None]
) -> argparse.Namespace:
    """The options; with ``--table`` print the table of what there is, and leave.

    Adds what every benchmark of finetuning has: ``--results``, ``--table``, ``--work``,
    ``--device`` and ``--threads``, which are set.
    """
    table = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for one in (table, parser):
        one.add_argument("--results", type=Path, default=results, help="a line for each outcome")
        one.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--work", type=Path, default=WORK, help="keeps what is made on the way")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    only, _ = table.parse_known_args()
    if only.table:
        report(only.results)
        raise SystemExit
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.work.mkdir(parents=True, exist_ok=True)
    return arguments


def add_sizes(parser: argparse.ArgumentParser, *, epochs: int, seeds: Sequence[int]) -> None:
    """The options that say how long it takes."""
    parser.add_argument("--epochs", type=int, default=epochs)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--budget", default="flops=0.5")
    parser.add_argument("--training-images", type=int, help="so many of them; default: all")
    parser.add_argument("--test-images", type=int, help="so many of them; default: all")
    parser.add_argument("--batch-size", type=int, help="default: the recipe's")


# -- images --------------------------------------------------------------------------------------


def fewer(data: ImageData, training: int | None, test: int | None) -> ImageData:
    """``data`` with so many training and test images, every class in proportion."""
    return replace(data, train=_few(data.train, training), test=_few(data.test, test))


def on_device(data: ImageData, device: str) -> ImageData:
    """``data`` with its images on a GPU, so that no batch is copied there; labels stay."""
    if not device.startswith("cuda"):
        return data

    def there(split: Images) -> Images:
        return Split(split.images.to(device), split.labels) if isinstance(split, Split) else split

    return replace(
        data, train=there(data.train), search_val=there(data.search_val), test=there(data.test)
    )


def _few(split: Images, count: int | None) -> Images:
    if count is None or count >= len(split):
        return split
    generator = torch.Generator().manual_seed(0)
    return split.take(stratified_indices(split.labels, count, generator))


# -- plans ---------------------------------------------------------------------------------------


def plan_file(
    work: Path, name: str, task: Task, budget: str, agent: str = "reference", episodes: int = 1
) -> Path:
    """Where a plan is kept: other images may give another one."""
    images = task.data_sha256()[:8] if task.data_sha256 is not None else "own"
    return work / f"{name}-{budget.replace('=', '')}-{agent}-{episodes}-{images}.json"


def planned(
    task: Task, path: Path, budget: str, *, agent: str = "reference", episodes: int = 1
) -> tuple[Plan, float]:
    """The plan in ``path``, or one that is found and kept there; and the seconds that took.

    Raises :class:`SystemExit` where the file is of another network.
    """
    seconds = path.with_suffix(".seconds")
    if not path.exists():
        start = time.perf_counter()
        found = search(task, budget, agent=agent, episodes=episodes, seed=0).plan
        seconds.write_text(f"{time.perf_counter() - start:.1f}")
        found.save(path)
    plan = Plan.load(path)
    if plan.weights_sha256 != weights_sha256(task.model):
        raise SystemExit(f"{path} is of other weights; remove it, or give another --work or --plan")
    return plan, float(seconds.read_text()) if seconds.exists() else math.nan


# -- measurements --------------------------------------------------------------------------------


def right(model: nn.Module, data: ImageData, split: Images, device: str = "cpu") -> Tensor:
    """(N,) whether ``model`` classifies each image correctly, 0 or 1 in float64."""
    return recognised(model, data, split, device=device).double()


def finetuned(
    task: Task,
    data: ImageData,
    model: nn.Module,
    recipe: FinetuneConfig,
    device: str = "cpu",
    *,
    verbose: bool = False,
) -> dict[str, Any]:
    """Train ``model`` in place by ``recipe``: the fields of a line that say what came of it."""
    assert task.train is not None
    assert task.validate is not None
    val_before, before = task.validate(model), right(model, data, data.test, device)
    start = time.perf_counter()
    trained = task.train(model, recipe, on_epoch=_say if verbose else None)
    seconds = time.perf_counter() - start
    after = right(model, data, data.test, device)
    rates = [one.images_per_second for one in trained.epochs if one.images_per_second]
    return {
        "val_before": val_before,
        "val_after": task.validate(model),
        "test_before": float(before.mean()),
        "test_after": float(after.mean()),
        "gain_error": paired_error(before, after),
        "kept": trained.kept,
        "accuracies": dict(trained.accuracies),
        "lr": trained.recipe.lr,
        "batch_size": trained.recipe.batch_size,
        "images_per_second": statistics.median(rates) if rates else None,
        "seconds": round(seconds, 1),
    }


def paired_error(before: Tensor, after: Tensor) -> float:
    """Standard error of the difference of two accuracies on the same images, (N,) each."""
    return float((after - before).std() / len(after) ** 0.5)


def _say(epoch: Epoch) -> None:
    test = "" if epoch.test_accuracy is None else f"test {epoch.test_accuracy:.2%}, "
    print(f"  epoch {epoch.number}: {test}{epoch.seconds:.0f} s", flush=True)


# -- tables --------------------------------------------------------------------------------------


def standard_error(values: Sequence[float]) -> float:
    """Of their mean; nan of fewer than two."""
    return statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan


def percent(values: Sequence[float], form: str = ".2f") -> str:
    """Mean, spread and standard error of accuracies or of differences, in points."""
    if not values:
        return ""
    points = [100 * value for value in values]
    mean = format(statistics.fmean(points), form)
    if len(points) < 2:
        return mean
    return f"{mean} (sd {statistics.stdev(points):.2f}, se {standard_error(points):.2f})"
