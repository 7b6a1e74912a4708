"""Finetune the network of a run, or the dense one, by the same recipe: what does pruning cost?

The dense network is trained on as well, itself as teacher, because a finetuned network should be
compared with one that had the same training. Each training appends one line to
``results/recover-NETWORK.jsonl``; those that are there already are skipped.

    python benchmarks/recover.py --weights W --images DIR --search-val FILE --run runs/NAME
    python benchmarks/recover.py --weights W --images DIR --search-val FILE
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from common import RESULTS, add_inputs, append_line, configs, read_lines
from rich.console import Console
from rich.table import Table

from amc.apply import apply_plan
from amc.config import FinetuneConfig
from amc.finetune import Epoch
from amc.plan import Plan
from amc.task import image_task


def main() -> None:
    """Train what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_inputs(parser)
    parser.add_argument("--run", type=Path, help="folder of a run; without it the dense network")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = RESULTS / f"recover-{arguments.network}.jsonl"
    kind = "pruned" if arguments.run else "dense"
    task = None
    for seed in arguments.seeds:
        key = {"kind": kind, "seed": seed, "epochs": arguments.epochs}
        if any(all(line[k] == v for k, v in key.items()) for line in read_lines(path)):
            continue
        task = task or image_task(*configs(arguments))
        plan = Plan.load(arguments.run / "plan.json") if arguments.run else None
        model = apply_plan(plan, task).model if plan else copy.deepcopy(task.model)
        assert task.test is not None
        assert task.train is not None
        before = task.test(model)
        start = time.perf_counter()
        recipe = FinetuneConfig(epochs=arguments.epochs, seed=seed)
        history = task.train(model, recipe, on_epoch=_say)
        result = {
            **key,
            "kept_macs": plan.macs / plan.dense_macs if plan else 1.0,
            "test_before": before,
            "test_after": history[-1].test_accuracy,
            "test_each_epoch": [epoch.test_accuracy for epoch in history],
            "seconds": time.perf_counter() - start,
            "recipe": recipe.model_dump(),
        }
        append_line(path, result)
    report(arguments.network)


def _say(epoch: Epoch) -> None:
    print(
        f"epoch {epoch.number}: test {epoch.test_accuracy:.4f}, {epoch.seconds:.0f} s", flush=True
    )


def report(network: str) -> None:
    """Print test accuracies before and after, by kind and epochs."""
    lines = read_lines(RESULTS / f"recover-{network}.jsonl")
    table = Table(title=f"{network}: test accuracy before and after finetuning (mean over seeds)")
    for heading in ("network", "epochs", "MACs", "seeds", "before", "after", "each"):
        table.add_column(heading, justify="right")
    for epochs, kind in dict.fromkeys((line["epochs"], line["kind"]) for line in lines):
        runs = [x for x in lines if (x["epochs"], x["kind"]) == (epochs, kind)]
        after = [run["test_after"] for run in runs]
        table.add_row(
            kind,
            str(epochs),
            f"{runs[0]['kept_macs']:.2%}",
            str(len(runs)),
            f"{np.mean([run['test_before'] for run in runs]):.4f}",
            f"{np.mean(after):.4f}",
            " ".join(f"{value:.4f}" for value in after),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
