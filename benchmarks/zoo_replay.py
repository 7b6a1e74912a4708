"""Does a policy's plan meet the budget on any network? Replay over the zoo, without images.

    python benchmarks/zoo_replay.py POLICY                   # every network; hours on one core
    python benchmarks/zoo_replay.py POLICY --only '*resnet*'
    python benchmarks/zoo_replay.py POLICY --fast            # eight small ones; minutes

In a process of its own each network (random weights, made lively) is traced, its units proven; then
the policy is replayed under each budget, and the plan is sliced and compared with its masked
twin. Each
network appends a line to ``results/replay-zoo.jsonl`` and is not done again;
``results/replay-zoo.md`` is made from them. The exit status is 1 where a budget within reach is not
met or a plan differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, append_line, read_lines
from zoo import wanted
from zoo_child import first_line, prepare
from zoo_networks import zoo

from amc.config import SearchConfig
from amc.cost.budget import resolve
from amc.envs.make import make_problem
from amc.errors import AMCError, BudgetError
from amc.pipeline.source import find_source
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify
from amc.task import Task

BUDGETS = (0.5, 0.3, 0.4, 0.6, 0.7, 0.8)
"""Fractions of the MACs; the time until the first is done is that of a whole replay."""
LINES = RESULTS / "replay-zoo.jsonl"


def main() -> int:
    """Measure what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy")
    parser.add_argument("--only", action="append", metavar="PATTERN", help="shell pattern; repeat")
    parser.add_argument("--family", choices=["torchvision", "timm", "beyond"])
    parser.add_argument("--fast", action="store_true", help="eight small networks")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit-seconds", type=int, default=900, help="of wall time, a network")
    parser.add_argument("--child", metavar="NAME", help="used by this script itself")
    arguments = parser.parse_args()
    if arguments.child:
        torch.set_num_threads(arguments.threads)
        print(json.dumps(measure(arguments.child, arguments.policy, arguments.limit_seconds)))
        return 0
    done = {line["network"] for line in read_lines(LINES)}
    for name in (name for name in zoo() if wanted(name, arguments) and name not in done):
        line = {"network": name} | child(name, arguments)
        append_line(LINES, line)
        print(line["network"], line["outcome"], line.get("cpu_seconds", ""), flush=True)
    lines = read_lines(LINES)
    text = page(lines)
    (RESULTS / "replay-zoo.md").write_text(text)
    return int(any(line["outcome"] not in ("met", "refused") for line in lines))


def child(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One network in a process of its own, whose last line is what it found."""
    words = ["--child", name, "--threads", str(arguments.threads)]
    words += ["--limit-seconds", str(arguments.limit_seconds)]
    command = [sys.executable, str(Path(__file__)), arguments.policy, *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode:
        last = ended.stderr.strip().splitlines()[-1:]
        return {"outcome": "crashed", "error": f"exit status {ended.returncode}: {last}"}
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


def measure(name: str, policy: str, limit_seconds: int) -> dict[str, Any]:
    """Replay under each budget: what is kept, the error against the twin, and the seconds."""
    warnings.simplefilter("ignore")
    model, inputs, _ = prepare(zoo()[name], limit_seconds)
    source = find_source(policy)
    started, started_cpu = time.perf_counter(), time.process_time()
    try:
        problem = make_problem(
            Task(model, inputs, lambda _: {}), SearchConfig(budget={"macs": 1.0})
        )
        start = source.start(problem)
    except AMCError as error:
        return {"outcome": "refused", "error": first_line(error)}
    plans: dict[float, dict[str, Any]] = {}
    for fraction in BUDGETS:
        try:
            budget: Any = resolve({"macs": fraction}, problem.units, problem.cost)
        except BudgetError as error:
            plans[fraction] = {"out_of_reach": first_line(error)}
            continue
        widths = start.plan(budget).widths
        plans[fraction] = {"kept_macs": problem.cost.macs(widths) / problem.cost.dense("macs")}
        try:
            small = slice_model(model, problem.units, widths)
            plans[fraction]["error"] = verify(model, small, problem.units, widths, inputs)
        except AMCError as error:
            plans[fraction]["failed"] = first_line(error)
        plans[fraction]["wall_seconds"] = round(time.perf_counter() - started, 2)
        plans[fraction]["cpu_seconds"] = round(time.process_time() - started_cpu, 2)
    within = [p for p in plans.values() if "kept_macs" in p]
    met = all(plan.get("kept_macs", 0) <= fraction for fraction, plan in plans.items())
    sound = met and within and not any("failed" in plan for plan in within)
    return {
        "outcome": "met" if sound else "out of reach" if not within else "differs",
        "units": len(problem.units),
        "plans": plans,
        "cpu_seconds": within[0]["cpu_seconds"] if within else None,
        "wall_seconds": within[0]["wall_seconds"] if within else None,
    }


def page(lines: list[dict[str, Any]]) -> str:
    """A line a network, and how many there are of each outcome."""
    rows = [
        "| network | units | " + " | ".join(f"{b:g}" for b in sorted(BUDGETS)) + " | CPU seconds |",
        "|---" * (len(BUDGETS) + 3) + "|",
    ]
    slack, seconds = [], []
    for line in lines:
        plans = line.get("plans", {})
        cells = [cell(plans.get(str(budget), {})) for budget in sorted(BUDGETS)]
        seconds += [line["cpu_seconds"]] if line.get("cpu_seconds") else []
        slack += [
            1 - plan["kept_macs"] / float(budget)
            for budget, plan in plans.items()
            if "kept_macs" in plan
        ]
        end = line.get("cpu_seconds") or line.get("error", line["outcome"])
        rows.append(
            f"| {line['network']} | {line.get('units', '')} | {' | '.join(cells)} | {end} |"
        )
    counts = Counter(line["outcome"] for line in lines)
    left, took = np.array(slack or [0.0]), np.array(seconds or [0.0])
    parts = [
        "# Replay over the zoo, without images",
        ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        + f". Plans leave {np.median(left):.2%} of the budget in the median, {left.max():.2%} at "
        f"most, and exceed it by {max(0.0, -left.min()):.2%}. A replay (tracing, proof of the "
        f"units, walk, slicing, proof of the plan) takes {np.median(took):.1f} CPU seconds in the "
        f"median, {took.max():.1f} at most.",
        "\n".join(rows),
        "Kept fraction of the MACs under each budget. `-`: not even the least widths meet it.",
    ]
    return "\n\n".join(parts) + "\n"


def cell(plan: dict[str, Any]) -> str:
    """One plan of one network."""
    if "failed" in plan:
        return "differs"
    return f"{plan['kept_macs']:.4f}" if "kept_macs" in plan else "-"


if __name__ == "__main__":
    sys.exit(main())
