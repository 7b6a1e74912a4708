"""Is the search's reward faithful to what finetuning gives?

Plans of one network on one budget are sliced, recalibrated and finetuned, all alike and shortly
(``results/proxy-NETWORK.jsonl``, a line each), and scored without finetuning in every way that a
reward could be read (``results/proxy-NETWORK-scores.jsonl``). Plans that have their lines are
skipped, so that an interrupted benchmark goes on where it stopped. Ends with the rank correlations
of the plans that have both (``results/proxy-NETWORK.md``), and a picture of the best.

    python benchmarks/proxy.py --weights W --images DIR --search-val FILE
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, add_inputs, append_line, configs, read_lines
from proxy_plans import spread_plans
from proxy_scores import Scorer
from proxy_table import write_report
from torch import Tensor, nn

from amc.config import EvaluateConfig, FinetuneConfig
from amc.cost.budget import Budget, parse_budget, resolve
from amc.cost.table import CostTable
from amc.errors import ConfigError
from amc.pruning.find_units import find_units
from amc.pruning.slicing.slice import slice_model
from amc.task import Task
from amc.tracing.units import Units
from amc.training.finetune import finetune
from amc.vision.data import ImageData
from amc.vision.sources import load_data
from amc.vision.task import image_task

IMPORTANCE = "contribution"
MIN_KEEP = 0.1


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_inputs(parser)
    parser.add_argument("--budget", default="flops=0.5")
    parser.add_argument("--plans", type=int, default=44)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--score-only", action="store_true", help="finetune no further plan")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model_config, data_config = configs(arguments)
    data = load_data(data_config)
    task = image_task(model_config, data, EvaluateConfig(), seed=0)
    units = find_units(task.model, task.example_inputs, importance=IMPORTANCE, min_keep=MIN_KEEP)
    recipe = FinetuneConfig(epochs=arguments.epochs, warmup_epochs=0.2, seed=arguments.seed)
    if not arguments.score_only:
        tune_missing(arguments, task, data, units, recipe)
    tuned = read_lines(results_path(arguments.network))
    scored = score_missing(scores_path(arguments.network), tuned, task, data, units)
    print(write_report(tuned, scored, results_path(arguments.network)))


def results_path(network: str) -> Path:
    """The finetuned plans."""
    return RESULTS / f"proxy-{network}.jsonl"


def scores_path(network: str) -> Path:
    """What they score without finetuning."""
    return RESULTS / f"proxy-{network}-scores.jsonl"


def tune_missing(
    arguments: argparse.Namespace,
    task: Task,
    data: ImageData,
    units: Units,
    recipe: FinetuneConfig,
) -> None:
    """Finetune the plans that have no line yet."""
    path = results_path(arguments.network)
    cost = CostTable(units)
    budget = resolve(parse_budget(arguments.budget), units, cost)
    found = read_lines(RESULTS / f"compare-{arguments.network}" / "runs.jsonl")
    if not isinstance(budget, Budget):
        raise ConfigError(f"--budget {arguments.budget}: the plans are of one cost, not of a range")
    plans = spread_plans(units, budget, found, arguments.plans, seed=0)
    done = {tuple(line["widths"]) for line in read_lines(path) if line["seed"] == recipe.seed}
    teacher = Teacher(task.model)
    for number, (source, widths) in enumerate(plans):
        if widths in done:
            continue
        small = slice_model(task.model, units, widths)
        quality = task.evaluate(small)  # recalibrates
        start = time.perf_counter()
        teacher.rewind()
        history = finetune(small, data, recipe, teacher=teacher).epochs
        line = {
            "source": source,
            "widths": widths,
            "seed": recipe.seed,
            "epochs": recipe.epochs,
            "kept_macs": cost.macs(widths) / cost.dense("macs"),
            "search": quality,
            "test_accuracy": history[-1].test_accuracy,
            "train_loss": history[-1].train_loss,
            "seconds": time.perf_counter() - start,
        }
        append_line(path, line)
        print(
            f"{number + 1} of {len(plans)}, {source}: KL {quality['kl']:.3f}, finetuned "
            f"{line['test_accuracy']:.4f}, {line['seconds']:.0f} s",
            flush=True,
        )


def score_missing(
    path: Path, tuned: list[dict[str, Any]], task: Task, data: ImageData, units: Units
) -> list[dict[str, Any]]:
    """Score the finetuned plans that have no scores yet; all lines."""
    done = {tuple(line["widths"]) for line in read_lines(path)}
    missing = dict.fromkeys(tuple(line["widths"]) for line in tuned)
    wanted = [widths for widths in missing if widths not in done]
    scorer = Scorer(task.model, units, data) if wanted else None
    for widths in wanted:
        assert scorer is not None
        append_line(path, {"widths": widths, "scores": scorer(widths)})
    return read_lines(path)


class Teacher(nn.Module):
    """The dense network, which is run in the first training only.

    Trainings of one seed see the same augmented batches in the same order: the others are given the
    logits of the first.
    """

    def __init__(self, dense: nn.Module) -> None:
        super().__init__()
        self._dense = dense
        self._known: list[tuple[float, Tensor]] = []
        self._next = 0

    def rewind(self) -> None:
        """A new training begins."""
        self._next = 0

    def forward(self, images: Tensor) -> Tensor:
        """Logits of (N, C, H, W)."""
        fingerprint = images.sum().item()
        if self._next == len(self._known):
            self._known.append((fingerprint, self._dense(images)))
        expected, logits = self._known[self._next]
        if fingerprint != expected:
            raise SystemExit(f"step {self._next}: not the batch of the first training")
        self._next += 1
        return logits


if __name__ == "__main__":
    main()
