"""What is a budget of latency worth? Plans found for it and plans found for FLOPs, by the clock.

The network is searched twice over a range of budgets: once of latency (with widths on the device's
multiples), once of FLOPs. The plans of both fronts are then measured in turns, beside the dense
network, and compared where they are equally good. The searches are in ``--runs``, and go on where
they were interrupted; the measured plans are the lines of ``results/speed-NETWORK.jsonl``, with the
table (``.md``) and the picture (``.svg``) beside it.

    python benchmarks/speed.py --network resnet56 --weights W --images DIR --search-val FILE
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, add_inputs, append_line, begin_or_resume, configs, read_lines
from matplotlib.figure import Figure

from amc.config import EvaluateConfig, LatencyConfig
from amc.latency.device import DeviceLatency
from amc.latency.measurement import judge, measure
from amc.pipeline.search import search
from amc.pruning.find_units import read_units
from amc.pruning.plan import Plan
from amc.pruning.slicing.slice import slice_model
from amc.records.pareto_front import Front
from amc.records.run_folder import RunFolder
from amc.task import Task
from amc.vision.task import image_task

BUDGETS = {"latency": "latency=0.5:0.85", "flops": "flops=0.25:0.95"}
COLOURS = {"latency": "#1f6fb4", "flops": "#c44e52"}
MOST = 20
"""Plans of a front that are measured."""
ROUNDS = 3
"""Measurements of all of them, of which the median counts: a shared machine changes in a minute."""


def main() -> None:
    """Search and measure, unless that is done, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_inputs(parser)
    parser.add_argument("--episodes", type=int, default=150, help="of each search")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--runs", type=Path, default=Path("runs/speed"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / f"speed-{arguments.network}.jsonl"
    if not path.exists():
        time_fronts(arguments, path)
    report(path)


def time_fronts(arguments: argparse.Namespace, path: Path) -> None:
    """Both fronts' plans and what they take, a line each."""
    task = image_task(*configs(arguments), EvaluateConfig(), seed=0)
    device = DeviceLatency(
        task.model, task.example_inputs, LatencyConfig(backend=arguments.backend)
    )
    plans = [(aim, plan) for aim in BUDGETS for plan in thinned(front(arguments, task, aim))]
    units = read_units(task.model, task.example_inputs)
    models = [task.model]
    models += [slice_model(task.model, plan.order(units), plan.widths()) for _, plan in plans]
    print("measuring", flush=True)
    forwards = [device.backend.load(model, device.inputs) for model in models]
    each_kept, clocks = [], []
    for _ in range(ROUNDS):
        latencies = measure(forwards, time=device.backend.time, max_seconds=45.0)
        clocks.append(judge(latencies)[0])
        dense_ms, *each_ms = (latency.ms(clocks[-1]) for latency in latencies)
        each_kept.append([ms / dense_ms for ms in each_ms])
    for (aim, plan), kept in zip(plans, zip(*each_kept, strict=True), strict=True):
        line: dict[str, Any] = {"aim": aim, "runtime": device.backend.description}
        line |= {"clocks": clocks, "kept": kept, "kl": plan.quality["kl"]}
        line |= {
            "macs": plan.costs["macs"],
            "dense_macs": plan.dense_costs["macs"],
            "widths": plan.widths(),
        }
        append_line(path, line)


def front(arguments: argparse.Namespace, task: Task, aim: str) -> Front:
    """The plans worth having of one search."""
    folder = RunFolder(arguments.runs / f"{arguments.network}-{aim}")
    if not folder.front.exists():
        given: dict[str, Any] = {"episodes": arguments.episodes, "seed": 0}
        given |= {"budget": BUDGETS[aim], "align": aim == "latency"}
        given |= {"latency": LatencyConfig(backend=arguments.backend)}
        search(task, **begin_or_resume(folder.path, **given))
    return Front.load(folder.front)


def thinned(front: Front) -> list[Plan]:
    """At most :data:`MOST` of its plans, from the worst to the best."""
    places = np.linspace(0, len(front.plans) - 1, min(MOST, len(front.plans))).round()
    return [front.plans[int(place)] for place in places]


def report(path: Path) -> None:
    """The table and the picture."""
    lines = read_lines(path)
    for line in lines:
        line["latency"] = float(np.median(line["kept"]))
    apart = np.median([np.ptp(line["kept"]) for line in lines])
    text = [
        f"{lines[0]['runtime']}; by the {', '.join(lines[0]['clocks'])} clock in {ROUNDS} rounds, "
        f"which are {apart:.1%} of the dense latency apart. In each row a plan for latency, and "
        "the one of least MACs among the plans for FLOPs that are as good.",
        "",
        "| for latency: measured | KL | MACs | for FLOPs: measured | KL | MACs | faster |",
        "|---" * 7 + "|",
    ]
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.add_subplot()
    fronts = {aim: [line for line in lines if line["aim"] == aim] for aim in BUDGETS}
    for aim, own in fronts.items():
        kept = [line["latency"] for line in own]
        label = f"for {'FLOPs' if aim == 'flops' else aim}"
        axes.plot(kept, [line["kl"] for line in own], ".", color=COLOURS[aim], label=label)
    axes.set(xlabel="measured latency, of the dense network's", ylabel="KL", yscale="log")
    axes.legend(frameon=False)
    pairs = []
    for plan in fronts["latency"]:
        equal = [line for line in fronts["flops"] if line["kl"] <= plan["kl"]]
        if equal:
            pairs.append((plan, min(equal, key=lambda line: line["macs"])))
    for plan, rival in pairs:
        cells = " | ".join(
            f"{line['latency']:.1%} | {line['kl']:.3f} | {line['macs'] / line['dense_macs']:.1%}"
            for line in (plan, rival)
        )
        text.append(f"| {cells} | {rival['latency'] / plan['latency']:.2f} times |")
    faster = np.median([rival["latency"] / plan["latency"] for plan, rival in pairs])
    text += ["", f"In the median of these {len(pairs)} pairs {faster:.2f} times."]
    path.with_suffix(".md").write_text("\n".join(text) + "\n")
    figure.savefig(path.with_suffix(".svg"))
    print("\n".join(text))


if __name__ == "__main__":
    main()
