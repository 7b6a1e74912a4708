"""What was learned on one network, on another: leave one network out.

For each network of ``--nets`` one policy is trained on all the others (``--train-episodes`` over
``--range``, in ``--runs``), and then the network that was left out is searched under ``--budget``:

    replay   begins with the policy          scratch  the agent, from the reference plan
    copied   the agent, from the plan of another network, by role
    cma      CMA-ES, from the reference plan  cma-copied  CMA-ES, from that plan

``reference`` (what is known without a search), ``knapsack`` and ``uniform`` are one plan each. The
plan that is copied is the best of a search on the first of the other networks. Each search is a
line of ``results/replay.jsonl`` as it ends, and is not done again: interrupted, the same command
goes on, and more seeds are added. Ends with the table (``.md``) and the picture (``.svg``).

    python benchmarks/replay.py --images DIR --search-val FILE --nets resnet20=W resnet56=V
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, add_images, append_line, begin_or_resume, cell, data_config, read_lines
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from amc.config import EvaluateConfig, ModelConfig
from amc.pipeline.multi_network import train_policy
from amc.pipeline.replay import replay
from amc.pipeline.search import search
from amc.records.episode import read_episodes
from amc.records.run_folder import RunFolder
from amc.task import Task
from amc.vision.data import ImageData
from amc.vision.sources import load_data
from amc.vision.task import image_task

MARKS = (1, 5, 20, 80, 150)
"""Evaluated plans after which the best so far is compared; the first is the plan as it comes."""
LABELS = {
    "replay": "the policy of the other networks, adapted",
    "copied": "the agent, from another's plan by role",
    "scratch": "the agent, from the reference plan",
    "cma-copied": "CMA-ES, from another's plan by role",
    "cma": "CMA-ES, from the reference plan",
    "reference": "the reference plan",
    "knapsack": "the knapsack plan",
    "uniform": "the uniform plan",
}
ONCE = ("reference", "knapsack", "uniform")
DEFAULT = "replay,scratch,cma-copied,cma,copied,reference,knapsack,uniform"


def main() -> None:
    """Do what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", required=True, help="NAME=WEIGHTS, amc's own networks")
    add_images(parser)
    parser.add_argument("--held-out", nargs="+", help="of --nets; default: each in turn")
    parser.add_argument("--rows", default=DEFAULT, help="with commas")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="with commas")
    parser.add_argument("--episodes", type=int, default=80, help="of each search")
    parser.add_argument("--scratch-episodes", type=int, default=150, help="of scratch's")
    parser.add_argument(
        "--one-source", action="store_true", help="policy and plan of seed 0 for all seeds"
    )
    parser.add_argument("--train-episodes", type=int, default=400, help="of each policy")
    parser.add_argument("--range", default="flops=0.3:0.8")
    parser.add_argument("--budget", default="flops=0.5")
    parser.add_argument("--runs", type=Path, default=Path("runs/replay"))
    parser.add_argument("--out", type=Path, default=RESULTS / "replay", help="less its suffix")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--report", action="store_true", help="only draw what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    nets = dict(net.split("=", 1) for net in arguments.nets)
    if not arguments.report:
        images = load_data(data_config(arguments))
        for held_out in arguments.held_out or nets:
            measure(arguments, nets, held_out, images)
    report(arguments.out, arguments.budget)


def measure(
    arguments: argparse.Namespace, nets: dict[str, str], held_out: str, images: ImageData
) -> None:
    """Every search on ``held_out`` that has no line yet."""
    path, budget = arguments.out.with_suffix(".jsonl"), arguments.budget
    done = {(x["held_out"], x["budget"], x["row"], x["seed"]) for x in read_lines(path)}
    tasks = {name: make_task(name, nets, images) for name in nets}
    task = tasks.pop(held_out)
    for seed in (int(text) for text in arguments.seeds.split(",")):
        for row in arguments.rows.split(","):
            if (held_out, budget, row, seed) in done or (row in ONCE and seed):
                continue
            line = {"held_out": held_out, "budget": budget, "row": row, "seed": seed}
            line |= run(arguments, row, seed, task, tasks)
            append_line(path, line)
            print({name: value for name, value in line.items() if name != "kl"}, flush=True)


def run(
    arguments: argparse.Namespace, row: str, seed: int, task: Task, others: dict[str, Task]
) -> dict[str, Any]:
    """One search: the KL of its plans in order, and what its source cost."""
    budget, given = arguments.budget, {"seed": seed, "episodes": arguments.episodes}
    if row in ONCE or row == "cma":
        agent = "cma-es" if row == "cma" else row
        return facts(search(task, budget, agent=agent, **given).history)
    if row == "scratch":
        return facts(read_episodes(searched(arguments, seed, task).episodes))
    source = 0 if arguments.one_source else seed
    if row == "replay":
        result = replay(trained(arguments, source, others), task, budget, **given)
        return facts(result.history, arguments.train_episodes)
    plan = searched(arguments, source, next(iter(others.values()))).plan
    agent = "cma-es" if row == "cma-copied" else "expert"
    result = replay(plan, task, budget, agent=agent, **given)
    return facts(result.history, arguments.scratch_episodes)


def trained(arguments: argparse.Namespace, seed: int, tasks: dict[str, Task]) -> Path:
    """The folder of the policy of ``tasks``, trained if need be: a search where there is one."""
    path = arguments.runs / f"policy-{'-'.join(tasks)}-seed{seed}"
    if (path / "policy" / "policy.json").exists():
        return Path(path)
    given = begin_or_resume(
        path, budget=arguments.range, episodes=arguments.train_episodes, seed=seed
    )
    if len(tasks) > 1:
        train_policy(tasks, **given)
    else:
        (task,) = tasks.values()
        search(task, **given)
    return Path(path)


def searched(arguments: argparse.Namespace, seed: int, task: Task) -> RunFolder:
    """A search from nothing on ``task``, done if need be: a row, and the source of others."""
    assert task.config is not None
    name = task.config.spec.removeprefix("amc:")
    folder = RunFolder(arguments.runs / f"{name}-{arguments.budget}-seed{seed}")
    if not (folder.policy / "policy.json").exists():
        given = {"budget": arguments.budget, "episodes": arguments.scratch_episodes, "seed": seed}
        search(task, **begin_or_resume(folder.path, **given))
    return folder


def make_task(name: str, nets: dict[str, str], images: ImageData) -> Task:
    """One of the networks; all are scored on the same images."""
    model = ModelConfig(spec=f"amc:{name}", weights=nets[name])
    return image_task(model, images, EvaluateConfig(), seed=0)


def facts(history: Sequence[Any], source_episodes: int = 0) -> dict[str, Any]:
    """What is kept of a search."""
    best = min(history, key=lambda episode: episode.quality["kl"])
    return {
        "kl": [episode.quality["kl"] for episode in history],
        "accuracy": best.quality["accuracy"],
        "widths": list(best.widths),
        "source_episodes": source_episodes,
        "seconds": sum(sum(episode.seconds.values()) for episode in history),
    }


def report(out: Path, budget: str) -> None:
    """The table and the picture of all networks."""
    lines = [x for x in read_lines(out.with_suffix(".jsonl")) if x["budget"] == budget]
    parts, held = [f"# Replay, {budget}"], sorted({line["held_out"] for line in lines})
    figure = Figure(figsize=(4.8 * max(1, len(held)), 4.2), layout="constrained")
    panels = figure.subplots(1, max(1, len(held)), squeeze=False)[0]
    for name, axes in zip(held, panels, strict=False):
        curves = {
            row: [np.minimum.accumulate(x["kl"]) for x in lines if (x["held_out"], x["row"]) == key]
            for row in LABELS
            if (key := (name, row))
        }
        curves = {row: found for row, found in curves.items() if found}
        parts += [f"## {name}, left out", table(curves), verdict(curves, lines, name)]
        draw(axes, name, curves)
    parts.append(
        "Best KL to the dense network so far, median (range) over seeds, after so many evaluated "
        "plans; the first is the plan as it comes, and is evaluated for this table only."
    )
    out.with_suffix(".md").write_text("\n\n".join(parts) + "\n")
    print("\n\n".join(parts))
    if held:
        shown = {
            label: line
            for axes in panels
            for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
        }
        labels = [label for label in LABELS.values() if label in shown]
        handles = [shown[label] for label in labels]
        figure.legend(
            handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=8
        )
    figure.savefig(out.with_suffix(".svg"))


def table(curves: dict[str, list[np.ndarray]]) -> str:
    """Best so far at each mark."""
    heads = [f"{mark} plans" if mark > 1 else "0 searched" for mark in MARKS]
    rows = [f"| | seeds | {' | '.join(heads)} |", "|---" * (len(MARKS) + 2) + "|"]
    for row, found in curves.items():
        cells = [cell(at(found, mark)) for mark in MARKS]
        rows.append(f"| {LABELS[row]} | {len(found)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def verdict(curves: dict[str, list[np.ndarray]], lines: list[dict[str, Any]], held_out: str) -> str:
    """The gain of the replayed plan, evaluations to the quality of a whole search, break-even."""
    if not {"replay", "scratch", "uniform"} <= set(curves):
        return "Not all searches are done."
    uniform = float(curves["uniform"][0][0])
    whole = float(np.median([curve[-1] for curve in curves["scratch"]]))
    said = []
    for row in ("replay", "copied", "cma-copied"):
        if row not in curves:
            continue
        first = float(np.median([curve[0] for curve in curves[row]]))
        needed = [int(np.argmax(c <= whole)) + 1 if c[-1] <= whole else None for c in curves[row]]
        reached = [count for count in needed if count is not None]
        length = len(curves["scratch"][0])
        source = next(
            x["source_episodes"] for x in lines if (x["held_out"], x["row"]) == (held_out, row)
        )
        # A seed that does not get there saves nothing.
        sooner = length - float(np.median([count or length for count in needed]))
        said.append(
            f"{row}: without a search {(uniform - first) / (uniform - whole):.0%} of what "
            f"{length} evaluations without it gain over the uniform plan"
            + (" (negative transfer)" if first > uniform else "")
            + f"; their median ({whole:.3f}) is reached by {len(reached)} of {len(needed)} seeds"
            + (f", these after {np.median(reached):.0f} plans in the median" if reached else "")
            + (
                f"; the source's {source} evaluations are paid back after "
                f"{int(np.ceil(source / sooner))} networks"
                if sooner > 0
                else "; the source is not paid back"
            )
            + "."
        )
    return " ".join(said)


def at(curves: list[np.ndarray], mark: int) -> list[float]:
    """The best after ``mark`` plans; of a search that ends by itself, its last."""
    return [float(c[min(mark, len(c)) - 1]) for c in curves if mark <= len(c) or len(c) == 1]


def draw(axes: Any, name: str, curves: dict[str, list[np.ndarray]]) -> None:
    """Medians over evaluated plans, both on logarithmic axes."""
    for row, found in curves.items():
        length = min(len(curve) for curve in found)
        if length == 1:
            axes.axhline(float(found[0][0]), linestyle=":", color="grey")
            axes.annotate(row, (1, float(found[0][0])), fontsize=7, color="grey")
            continue
        median = np.median([curve[:length] for curve in found], axis=0)
        # A row that a network lacks must not give its colour to the next one.
        colour = f"C{list(LABELS).index(row)}"
        axes.plot(np.arange(1, length + 1), median, colour, label=LABELS[row])
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:.2f}")
    axes.yaxis.set_minor_formatter("{x:.2f}")
    axes.set_xticks(MARKS, [str(mark) for mark in MARKS])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_title(f"{name}, left out")
    axes.set_xlabel("evaluated plans")
    axes.set_ylabel("best KL to the dense network")


if __name__ == "__main__":
    main()
