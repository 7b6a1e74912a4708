"""One policy for a range of budgets, without a search, against a search at each budget.

Trains one policy over ``--range`` (``--episodes`` evaluated plans in all), replays it once under
each of ten budgets that it was not trained on, and searches anew at each (``--search-episodes``).
Each result is a line of ``results/conditioned-NETWORK.jsonl``, and is not computed again. Ends with
the table (``.md``) and the picture (``.svg``).

    python benchmarks/conditioned.py --weights W --images DIR --search-val FILE
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, add_inputs, append_line, configs, read_lines
from matplotlib.figure import Figure

from amc.agents.policy import Policy
from amc.agents.warm_start import play
from amc.config import EvaluateConfig
from amc.cost.budget import parse_budget, resolve
from amc.envs.make import make_problem
from amc.pipeline.search import make_config, search
from amc.records.episode import Episode
from amc.task import Task
from amc.vision.sources import load_data
from amc.vision.task import image_task

LABELS = {
    "policy": "one policy, no evaluation",
    "search": "a search at each budget",
    "uniform": "the uniform plan",
}


def main() -> None:
    """Do what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_inputs(parser)
    parser.add_argument("--range", default="flops=0.3:0.8")
    parser.add_argument("--episodes", type=int, default=400)
    parser.add_argument("--search-episodes", type=int, default=150)
    parser.add_argument("--budgets", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--run", type=Path, default=Path("runs/conditioned"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model_config, data_config = configs(arguments)
    task = image_task(model_config, load_data(data_config), EvaluateConfig(), seed=0)
    if not (arguments.run / "policy" / "policy.json").exists():
        if arguments.run.exists():
            search(task, run=arguments.run, resume=True)
        else:
            length = {"episodes": arguments.episodes, "seed": arguments.seed}
            search(task, arguments.range, run=arguments.run, **length)
    compare(arguments, task, Policy.load(arguments.run))
    report(arguments.network)


def compare(arguments: argparse.Namespace, task: Task, policy: Policy) -> None:
    """The policy's plan, the uniform one and a search's, at each budget without a line."""
    path = RESULTS / f"conditioned-{arguments.network}.jsonl"
    problem = make_problem(task, make_config(arguments.range))
    (low, high), *_ = parse_budget(arguments.range).values()  # type: ignore[misc]
    unseen = np.random.default_rng(1).uniform(low, high, arguments.budgets).round(3).tolist()
    done = {line["flops"] for line in read_lines(path)}
    for flops in unseen:
        if flops in done:
            continue
        budget: Any = resolve({"macs": flops}, problem.units, problem.cost)
        replayed, uniform = (
            problem.score(play(policy, problem, budget)),
            problem.score(problem.uniform(budget)),
        )
        found = search(
            task, f"flops={flops}", episodes=arguments.search_episodes, seed=arguments.seed
        )
        plans = {"policy": replayed, "search": found.best, "uniform": uniform}
        append_line(path, {"flops": flops, **{name: facts(e) for name, e in plans.items()}})
        print(flops, {name: facts(e) for name, e in plans.items()}, flush=True)


def facts(episode: Episode) -> dict[str, Any]:
    """What is compared."""
    quality = {name: episode.quality[name] for name in ("accuracy", "kl")}
    return {**quality, "kept_macs": episode.kept["macs"], "widths": list(episode.widths)}


def report(network: str) -> None:
    """The table and the picture."""
    lines = sorted(
        read_lines(RESULTS / f"conditioned-{network}.jsonl"), key=lambda line: line["flops"]
    )
    names = tuple(LABELS)
    rows = ["| flops | " + " | ".join(f"{n}: accuracy (KL), kept MACs" for n in names) + " |"]
    rows.append("|---|" + "---|" * len(names))
    for line in lines:
        cells = (
            f"{line[n]['accuracy']:.1%} ({line[n]['kl']:.3f}), {line[n]['kept_macs']:.2%}"
            for n in names
        )
        rows.append(f"| {line['flops']:.3f} | {' | '.join(cells)} |")
    missed = [line["search"]["accuracy"] - line["policy"]["accuracy"] for line in lines]
    slack = [1 - line["policy"]["kept_macs"] / line["flops"] for line in lines]
    rows += [
        "",
        f"The search's accuracy is {np.mean(missed) * 100:.2f} points above the policy's in the "
        f"mean, {np.max(missed) * 100:.2f} at most; the policy's plans leave "
        f"{np.max(slack):.2%} of the budget at most, and exceed it by "
        f"{max(0.0, -np.min(slack)):.2%}.",
    ]
    (RESULTS / f"conditioned-{network}.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows))
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for name, mark in zip(names, ("o", "x", "."), strict=True):
        axes.plot(
            [line["flops"] for line in lines],
            [line[name]["accuracy"] for line in lines],
            marker=mark,
            label={"policy": "one policy, no evaluation", "search": "a search each"}.get(
                name, name
            ),
        )
    axes.set_xlabel("budget: fraction of the dense network's MACs")
    axes.set_ylabel("search-val accuracy before finetuning")
    axes.legend(frameon=False)
    figure.savefig(RESULTS / f"conditioned-{network}.svg")


if __name__ == "__main__":
    main()
