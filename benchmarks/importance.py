"""The same plans under every channel importance, with stale and with recalibrated BatchNorm.

Half of the plans are random, half are the uniform plan and plans around it; all are on the budget.
Each plan under each criterion appends one line to ``results/importance-NETWORK.jsonl``; lines that
are there already are skipped, so that an interrupted benchmark goes on where it stopped. Ends with
the table and, in ``results/importance-NETWORK.svg``, the picture.

    python benchmarks/importance.py --weights W --images DIR --search-val FILE
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, add_inputs, append_line, configs, read_lines
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from amc.config import EvaluateConfig
from amc.envs.make import make_problem
from amc.pipeline.search import make_config
from amc.pruning.importance.score import score
from amc.pruning.slicing.slice import slice_model
from amc.registry import IMPORTANCES
from amc.task import Task
from amc.tracing.units import Units
from amc.vision.sources import load_data
from amc.vision.task import image_task

BASELINE = "contribution"
"""What the others are compared with, plan by plan: the best of those that need no images."""
SPREAD = 0.3
"""Standard deviation of the actions around the uniform plan's."""
STATISTICS = ("recalibrated", "stale")


def main() -> None:
    """Evaluate what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_inputs(parser)
    parser.add_argument("--budget", default="flops=0.5")
    parser.add_argument("--plans", type=int, default=40)
    parser.add_argument(
        "--criteria", nargs="+", default=IMPORTANCES.names(), choices=IMPORTANCES.names()
    )
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = RESULTS / f"importance-{arguments.network}.jsonl"
    done = {
        (x["criterion"], x["plan"]) for x in read_lines(path) if x["budget"] == arguments.budget
    }
    wanted = [(name, plan) for name in arguments.criteria for plan in range(arguments.plans)]
    if not done.issuperset(wanted):
        evaluate(arguments, path, done)
    report(arguments.network, arguments.budget)


def evaluate(arguments: argparse.Namespace, path: Path, done: set[tuple[str, int]]) -> None:
    """Every plan under every criterion, but those that are ``done``."""
    model_config, data_config = configs(arguments)
    data = load_data(data_config)
    task = image_task(model_config, data, EvaluateConfig(), seed=0)
    stale = image_task(model_config, data, EvaluateConfig(calibration_images=0), seed=0)
    units, plans = find_plans(task, arguments.budget, arguments.plans)
    for criterion in arguments.criteria:
        missing = [number for number in range(len(plans)) if (criterion, number) not in done]
        if not missing:
            continue
        start = time.process_time()
        ranked = units.ranked(
            score(task.model, units, criterion, calibration=task.calibration, loss=task.loss)
        )
        seconds = time.process_time() - start
        for number in missing:
            key = {"criterion": criterion, "plan": number, "budget": arguments.budget}
            result = {**key, "widths": list(plans[number]), "scoring_seconds": seconds}
            for statistics, judge in zip(STATISTICS, (task, stale), strict=True):
                quality = judge.evaluate(slice_model(task.model, ranked, plans[number]))
                result[statistics] = {name: quality[name] for name in ("kl", "accuracy")}
            append_line(path, result)
        print(f"{criterion}: scored in {seconds:.1f} CPU s, {len(missing)} plans", flush=True)


def find_plans(task: Task, budget: str, count: int) -> tuple[Units, list[tuple[int, ...]]]:
    """The units, and ``count`` plans on the budget that no criterion had a part in."""
    unscored = replace(task, evaluate=lambda _: {"kl": 0.0})
    problem = make_problem(unscored, make_config(budget, importance=BASELINE))
    uniform, rng = problem.uniform_keep(), np.random.default_rng(0)
    plans = []
    for number in range(count):
        away = SPREAD * rng.standard_normal(len(uniform)) * (number > count // 2)
        actions = rng.uniform(-1, 1, len(uniform))
        if number >= count // 2:
            actions = np.clip(problem.encode(uniform) + away, -1, 1)
        plans.append(problem.decode(actions).widths)
    assert all(problem.budget.met(widths) for widths in plans)
    return problem.units, plans


def report(network: str, budget: str) -> None:
    """Print what the plans lose under each criterion, and draw it."""
    lines = read_lines(RESULTS / f"importance-{network}.jsonl")
    lines = [line for line in lines if line["budget"] == budget]
    for statistics in STATISTICS:
        Console(width=120).print(_table(lines, statistics, f"{network}, {budget}: {statistics} BN"))
    names = _ranked(lines)
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for row, name in enumerate(reversed(names)):
        values = _values(lines, name, "recalibrated", "kl")
        axes.plot(values, np.full(len(values), row), ".", color="#1f8f84", alpha=0.35)
        axes.plot(np.median(values), row, "|", color="#d9702f", markersize=16, markeredgewidth=2)
    axes.set_xlim(0)
    axes.set_yticks(range(len(names)), list(reversed(names)))
    axes.set_xlabel("KL to the dense network, recalibrated (bar: median)")
    figure.savefig(RESULTS / f"importance-{network}.svg")


def _table(lines: list[dict[str, Any]], statistics: str, title: str) -> Table:
    table = Table(title=title)
    against = f"below {BASELINE}"
    measured = ("KL mean", "median", "accuracy mean", "median")
    for heading in ("importance", "plans", *measured, against, "wins", "CPU s"):
        table.add_column(heading, justify="right", no_wrap=True)
    base = _values(lines, BASELINE, statistics, "kl")
    for name in _ranked(lines, statistics):
        kl, accuracy = (_values(lines, name, statistics, key) for key in ("kl", "accuracy"))
        gain = (base - kl)[: len(kl)]
        error = gain.std(ddof=1) / len(gain) ** 0.5
        seconds = next(line["scoring_seconds"] for line in lines if line["criterion"] == name)
        table.add_row(
            *(name, str(len(kl)), f"{kl.mean():.3f}", f"{np.median(kl):.3f}"),
            *(f"{accuracy.mean():.3f}", f"{np.median(accuracy):.3f}"),
            "" if name == BASELINE else f"{gain.mean():+.3f} ± {error:.3f}",
            "" if name == BASELINE else f"{(gain > 0).sum()}",
            f"{seconds:.2f}",
        )
    return table


def _ranked(lines: list[dict[str, Any]], statistics: str = "recalibrated") -> list[str]:
    """Criteria by their mean KL, the best first."""
    names = dict.fromkeys(line["criterion"] for line in lines)
    return sorted(names, key=lambda name: _values(lines, name, statistics, "kl").mean())


def _values(lines: list[dict[str, Any]], criterion: str, statistics: str, key: str) -> np.ndarray:
    """(plans,) in the plans' order."""
    chosen = [line for line in lines if line["criterion"] == criterion]
    return np.array([x[statistics][key] for x in sorted(chosen, key=lambda x: x["plan"])])


if __name__ == "__main__":
    main()
