"""What does pruning cost? Finished runs against the dense network, trained equally long.

A pruned network that was finetuned should be compared with a dense one that had the same training:
the dense checkpoint is trained on by the same recipe, itself as teacher. Each such training appends
one line to ``results/dense-NETWORK.jsonl``; those that are there already are skipped.

    python benchmarks/dense.py --weights W --images DIR --search-val FILE --runs runs/A runs/B
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, add_inputs, append_line, configs, read_lines
from rich.console import Console
from rich.table import Table

from amc.config import FinetuneConfig
from amc.records.results import Results
from amc.records.run_folder import RunFolder
from amc.task import Epoch
from amc.vision.task import image_task


def main() -> None:
    """Train what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_inputs(parser)
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="folders of finished runs")
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    path = RESULTS / f"dense-{arguments.network}.jsonl"
    done = {(line["seed"], line["epochs"]) for line in read_lines(path)}
    missing = [seed for seed in arguments.seeds if (seed, arguments.epochs) not in done]
    task = image_task(*configs(arguments)) if missing else None
    for seed in missing:
        assert task is not None
        assert task.test is not None
        assert task.train is not None
        model = copy.deepcopy(task.model)
        before = task.test(model)
        recipe = FinetuneConfig(epochs=arguments.epochs, seed=seed)
        trained = task.train(model, recipe, on_epoch=_say)
        result = {
            "seed": seed,
            "epochs": arguments.epochs,
            "test_before": before,
            "test_after": task.test(model),
            "seconds": sum(epoch.seconds for epoch in trained.epochs),
            "recipe": trained.recipe.model_dump(),
        }
        append_line(path, result)
    dense = [line for line in read_lines(path) if line["epochs"] == arguments.epochs]
    report(arguments.network, arguments.epochs, dense, arguments.runs)


def _say(epoch: Epoch) -> None:
    print(
        f"epoch {epoch.number}: test {epoch.test_accuracy:.4f}, {epoch.seconds:.0f} s", flush=True
    )


def report(network: str, epochs: int, dense: list[dict[str, Any]], runs: list[Path]) -> None:
    """Print test accuracies before and after the same training, dense and pruned."""
    table = Table(title=f"{network}: test accuracy, {epochs} epochs of the same recipe")
    for heading in ("network", "MACs", "before", "after"):
        table.add_column(heading, justify="right")
    for line in dense:
        seed, before, after = line["seed"], line["test_before"], line["test_after"]
        table.add_row(f"dense, seed {seed}", "100%", f"{before:.4f}", f"{after:.4f}")
    pruned = []
    for folder in runs:
        results = Results.load(RunFolder.open(folder).results)
        rows = {row.name: row for row in results.rows}
        if results.recipe is None or results.recipe.epochs != epochs:
            raise SystemExit(f"{folder} was not finetuned for {epochs} epochs")
        pruned.append(rows["finetuned"].test_accuracy or 0.0)
        kept = f"{rows['pruned'].costs['macs'] / rows['dense'].costs['macs']:.2%}"
        table.add_row(folder.name, kept, f"{rows['pruned'].test_accuracy:.4f}", f"{pruned[-1]:.4f}")
    Console().print(table)
    if dense and pruned:
        gap = np.mean([line["test_after"] for line in dense]) - np.mean(pruned)
        print(f"pruned is {100 * gap:.2f} points below dense (means over the seeds)")


if __name__ == "__main__":
    main()
