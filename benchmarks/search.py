"""The agent against random plans on the budget, at equal evaluations, over seeds.

Each run appends one line to ``results/search-NETWORK.jsonl``; runs that are there already are
skipped, so that an interrupted benchmark goes on where it stopped. Ends with the table and, in
``results/search-NETWORK.svg``, the picture.

    python benchmarks/search.py --weights W --images DIR --search-val FILE
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from common import RESULTS, add_inputs, append_line, configs, read_lines
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from amc.config import EvaluateConfig
from amc.data import load_data
from amc.pipeline import search
from amc.task import image_task

MARKS = (20, 40, 80, 150)


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_inputs(parser)
    parser.add_argument("--budget", default="flops=0.5")
    parser.add_argument("--episodes", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--agents", nargs="+", default=["ddpg", "random", "uniform"])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = RESULTS / f"search-{arguments.network}.jsonl"
    model_config, data_config = configs(arguments)
    data = None
    for seed in arguments.seeds:
        for agent in arguments.agents:
            key = {"agent": agent, "seed": seed, "budget": arguments.budget}
            if any(all(line[k] == v for k, v in key.items()) for line in read_lines(path)):
                continue
            data = data or load_data(data_config)
            # The images that score a plan are the same for all seeds: only the search varies.
            task = image_task(model_config, data, EvaluateConfig(), seed=0)
            start = time.perf_counter()
            result = search(
                task, arguments.budget, agent=agent, seed=seed, episodes=arguments.episodes
            )
            seconds = time.perf_counter() - start
            result_line = {
                **key,
                "seconds": seconds,
                "seconds_evaluating": sum(e.seconds["evaluate"] for e in result.history),
                "kl": [e.quality["kl"] for e in result.history],
                "accuracy": [e.quality["accuracy"] for e in result.history],
                "best_widths": result.best.widths,
                "best_kept_macs": result.best.kept_macs,
            }
            append_line(path, result_line)
            print(f"{key}: best KL {-result.best.reward:.3f} in {seconds:.0f} s", flush=True)
    report(arguments.network, arguments.budget)


def report(network: str, budget: str) -> None:
    """Print best-so-far KL at the marks, and draw it."""
    lines = [x for x in read_lines(RESULTS / f"search-{network}.jsonl") if x["budget"] == budget]
    table = Table(title=f"{network}, {budget}: best KL to the dense network so far (median, range)")
    for heading in ("searcher", "seeds", *(f"{mark} plans" for mark in MARKS), "seconds"):
        table.add_column(heading, justify="right")
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    for agent in dict.fromkeys(line["agent"] for line in lines):
        runs = [line for line in lines if line["agent"] == agent]
        length = max(len(run["kl"]) for run in runs)
        curves = np.array([np.minimum.accumulate(_padded(run["kl"], length)) for run in runs])
        cells = [_cell(curves[:, min(mark, length) - 1]) for mark in MARKS]
        seconds = np.median([run["seconds"] for run in runs])
        table.add_row(agent, str(len(runs)), *cells, f"{seconds:.0f}")
        if length == 1:
            axes.axhline(np.median(curves), linestyle=":", color="grey", label=agent)
            continue
        episodes = np.arange(1, length + 1)
        axes.plot(episodes, np.median(curves, 0), label=f"{agent} (median of {len(runs)})")
        axes.fill_between(episodes, curves.min(0), curves.max(0), alpha=0.2)
    axes.set_xlabel("evaluated plans")
    axes.set_ylabel("best KL to the dense network (lower is better)")
    axes.legend(frameon=False)
    figure.savefig(RESULTS / f"search-{network}.svg")
    Console().print(table)


def _padded(values: list[float], length: int) -> np.ndarray:
    return np.array(values + [values[-1]] * (length - len(values)))


def _cell(values: np.ndarray) -> str:
    return f"{np.median(values):.3f} ({values.min():.3f} to {values.max():.3f})"


if __name__ == "__main__":
    main()
