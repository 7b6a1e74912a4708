"""Predicted against measured latency, and whether a budget of latency holds.

``predict`` builds the latency model of each network, and measures random plans that the model never
saw. ``hold`` draws plans at random within a budget of latency, and returns the best of them as a
search does, by measurement. Neither needs images. Each result is a line of
``results/latency.jsonl``, and is not measured again; both end with the table (``.md``) and the
picture (``.svg``).

    python benchmarks/latency.py predict
    python benchmarks/latency.py hold
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, append_line, read_lines
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor, nn

from amc.config import LatencyConfig, ModelConfig
from amc.cost.channel_multiple import best_multiple
from amc.cost.table import CostTable
from amc.latency.device import DeviceLatency
from amc.latency.predictor.fit import DENSE_COPIES, measure_plans
from amc.models.factory import build_model
from amc.pipeline.search import search
from amc.pruning.find_units import find_units
from amc.task import Task
from amc.tracing.units import Units

NETWORKS = {
    "resnet56, 32 px": ("amc:resnet56", 32),
    "mobilenet_v2, 32 px": ("amc:mobilenet_v2", 32),
    "resnet18, 224 px": ("torchvision:resnet18", 224),
    "mobilenet_v2, 224 px": ("torchvision:mobilenet_v2", 224),
}
AT_ONCE = 25
"""Plans that are measured in turns, the dense network with them: their times are compared by it, so
that a machine that slows down between two groups does not count."""
LINES = RESULTS / "latency.jsonl"


def main() -> None:
    """Measure what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    predicting = commands.add_parser("predict")
    predicting.add_argument("--plans", type=int, default=100)
    holding = commands.add_parser("hold")
    holding.add_argument("--budget", type=float, default=0.6)
    for command in (predicting, holding):
        command.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
        command.add_argument("--backend", default="onnxruntime")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    known = {(line["kind"], line["network"]) for line in read_lines(LINES)}
    for name in arguments.networks:
        if arguments.command == "predict" and ("plan", name) not in known:
            predict(name, arguments.plans, arguments.backend)
        if arguments.command == "hold" and ("hold", name) not in known:
            hold(name, arguments.budget, arguments.backend)
    report(read_lines(LINES))


def network(name: str) -> tuple[nn.Module, Tensor]:
    """One of :data:`NETWORKS`, of random weights, and an input."""
    spec, side = NETWORKS[name]
    return build_model(ModelConfig(spec=spec)).eval(), torch.randn(1, 3, side, side)


def predict(name: str, count: int, backend: str) -> None:
    """Random plans of one network, half of them aligned as the device likes it."""
    model, x = network(name)
    units = find_units(model, x, importance="contribution")
    device = DeviceLatency(model, x, LatencyConfig(backend=backend), on_stage=say)
    predicted_of, cost = device.latency_model(units), CostTable(units)
    plans = random_plans(units, count, best_multiple(units, predicted_of))
    for start in range(0, count, AT_ONCE):
        some = plans[start : start + AT_ONCE]
        many = [*[units.dense_widths] * DENSE_COPIES, *some]
        measured_us = measure_plans(model, x, units, device.backend, many)
        dense, us = np.median(measured_us[:DENSE_COPIES]), measured_us[DENSE_COPIES:]
        dense_predicted, *predicted = predicted_of(np.array([units.dense_widths, *some]))
        for widths, measured, expected in zip(some, us, predicted, strict=True):
            line: dict[str, Any] = {"kind": "plan", "network": name}
            line["runtime"] = device.backend.description
            line |= {"macs": cost.macs(widths), "dense_macs": cost.dense("macs")}
            line |= {"widths": list(widths), "measured_us": measured, "predicted_us": expected}
            line |= {"dense_us": dense, "dense_predicted_us": dense_predicted}
            append_line(LINES, line)


def hold(name: str, budget: float, backend: str) -> None:
    """A search whose plans are all equally good: what is returned, and what the others measured."""
    model, x = network(name)
    task = Task(model, x, evaluate=lambda _: {"kl": 0.0})
    result = search(
        task,
        f"latency={budget}",
        agent="random",
        episodes=8,
        align=True,
        latency=LatencyConfig(backend=backend),
        on_stage=say,
        on_note=print,
    )
    found = result.confirmation
    assert found is not None
    append_line(
        LINES,
        {
            "kind": "hold",
            "network": name,
            "runtime": found.runtime,
            "budget": budget,
            "kept": [timed.measured_us / timed.dense_us for timed in found.timed],
            "holds": [timed.holds for timed in found.timed],
            "tightened": list(found.tightened),
            "clock": found.clock,
            "macs": result.plan.kept["macs"],
        },
    )


def random_plans(units: Units, count: int, multiple: int) -> list[tuple[int, ...]]:
    """Plans that keep a tenth to all of everything; every other one on the device's multiples."""
    generator = np.random.default_rng(1)
    aligned = units.limited(min_keep=0.1, round_to=multiple)
    grids = {unit.name: unit.widths for unit in aligned}
    plans = []
    for number in range(count):
        keeps = generator.uniform(0.2, 1.0) * generator.uniform(0.4, 1.0, len(units))
        on_grid = number % 2 == 1
        plans.append(
            tuple(
                min(
                    grids.get(unit.name, (unit.width,)) if on_grid else unit.widths,
                    key=lambda width, aim=keep * unit.width: abs(width - aim),  # type: ignore[misc]
                )
                for unit, keep in zip(units, keeps, strict=True)
            )
        )
    return plans


def report(lines: list[dict[str, Any]]) -> None:
    """The tables and the picture of all results."""
    plans = [line for line in lines if line["kind"] == "plan"]
    names = [name for name in NETWORKS if any(line["network"] == name for line in plans)]
    head = "| network | plans | median error | 95% within | within 10% | Spearman | MACs |"
    text = [
        "Predicted against measured latency of random plans; in brackets as fractions of the dense"
    ]
    text += ["network's, measured in the same turns.", "", head, "|---" * 7 + "|"]
    figure = Figure(figsize=(3.2 * max(1, len(names)), 3.2), layout="constrained")
    for number, name in enumerate(names, start=1):
        own = [line for line in plans if line["network"] == name]
        true, expected, dense, dense_expected, macs = (
            np.array([line[key] for line in own])
            for key in ("measured_us", "predicted_us", "dense_us", "dense_predicted_us", "macs")
        )
        shares = []
        for error in (expected / true - 1, expected / dense_expected / (true / dense) - 1):
            size = np.abs(error)
            shares.append((np.median(size), np.quantile(size, 0.95), np.mean(size <= 0.1)))
        cells = [f"{one:.1%} ({other:.1%})" for one, other in zip(*shares, strict=True)]
        text.append(
            f"| {name} | {len(own)} | {' | '.join(cells)} "
            f"| {spearmanr(expected, true)[0]:.3f} | {spearmanr(macs, true)[0]:.3f} |"
        )
        axes = figure.add_subplot(1, len(names), number)
        most = 1.05e-3 * max(true.max(), expected.max())
        axes.plot([0, most], [0, most], color="#999999", linewidth=0.8)
        axes.plot(true / 1e3, expected / 1e3, ".", color="#1f6fb4", markersize=4)
        axes.set(title=name, xlabel="measured, ms", ylabel="predicted, ms" if number == 1 else "")
    text += ["", "Spearman: of predicted, and of MACs, with measured latency.", *inversions(plans)]
    held = [line for line in lines if line["kind"] == "hold"]
    if held:
        text += ["", "| network | budget | returned, measured | MACs | others | tightened |"]
        text += ["|---" * 6 + "|"]
    for line in held:
        *others, returned = line["kept"]
        rest = f"{min(others):.1%} to {max(others):.1%}" if others else ""
        text.append(
            f"| {line['network']} | {line['budget']:.0%} | {returned:.1%} | {line['macs']:.1%} "
            f"| {rest} | {len(line['tightened'])} times |"
        )
    Path(RESULTS / "latency.md").write_text("\n".join(text) + "\n")
    if names:
        figure.savefig(RESULTS / "latency.svg")
    print("\n".join(text))


def inversions(plans: list[dict[str, Any]]) -> list[str]:
    """For each network the two plans whose order by MACs is most wrong about their latency."""
    text = []
    for name in dict.fromkeys(line["network"] for line in plans):
        own = [line for line in plans if line["network"] == name]
        pairs = ((a, b) for a in own for b in own if a["macs"] > b["macs"])
        worst = max(
            ((a["macs"] / b["macs"] * b["measured_us"] / a["measured_us"], a, b) for a, b in pairs),
            key=lambda found: found[0] if found[1]["measured_us"] < found[2]["measured_us"] else 0,
        )
        _, a, b = worst
        if a["measured_us"] < b["measured_us"]:
            text.append(
                f"{name}: {a['macs'] / 1e6:.1f} M MACs take {a['measured_us'] / 1e3:.2f} ms, "
                f"{b['macs'] / 1e6:.1f} M MACs {b['measured_us'] / 1e3:.2f} ms."
            )
    return ["", *text] if text else []


def say(what: str, done: int, total: int) -> None:
    """Progress, a line for each tenth."""
    if total and done % max(1, total // 10) == 0:
        print(f"{what} {done}/{total}", flush=True)


if __name__ == "__main__":
    main()
