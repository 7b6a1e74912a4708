"""Finetuning on a GPU, in ten minutes: how fast a step is, and what a hundred epochs give.

First images a second: of the bare network's forward and backward, with the teacher's forward beside
it, and of whole training epochs; the first over the last says how far an epoch is bound by the
network. Then the arms of ``finetuning.py``, each in a process of its own, all at once on the same
GPU: a network as small as ResNet-20 leaves most of it idle. Images stay on the device, numbers are
bfloat16, the layout is channels_last, and torch.compile is used where it was measured to be faster.
Lines are in ``results/finetuning-gpu.jsonl``; those that are there are not done
again.

    python benchmarks/gpu.py --weights W --images DIR --search-val FILE --teacher amc:resnet56@V
"""

from __future__ import annotations

import argparse
import copy
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, append_line, read_lines
from finetuning import Bench, opened, options, report
from finetuning_common import parse_or_report
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional

from amc.compute.precision import autocast, to_channels_last
from amc.config import FinetuneConfig
from amc.pruning.apply import apply_plan

ARMS = ("ours", "dense", "teacher", "narrow")
WARM_UP, STEPS = 20, 100
TRAINED = 3
"""Epochs whose speed is measured; the last one counts, when kernels have been chosen."""


def main() -> None:
    """Measure, train, and report; without a GPU say so."""
    parser = options()
    parser.description = __doc__.splitlines()[0]
    parser.set_defaults(arms=list(ARMS), epochs=100, seeds=[0], batch_size=512, threads=4)
    parser.add_argument("--seconds", type=float, default=570, help="after which all is stopped")
    start = time.monotonic()
    arguments = parse_or_report(parser, RESULTS / "finetuning-gpu.jsonl", _report)
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        return
    bench = opened(arguments)  # finds the plan, which the processes read
    speeds = arguments.results.with_stem(f"{arguments.results.stem}-speed")
    if not read_lines(speeds):
        for line in speed(bench):
            append_line(speeds, line)
    train(arguments, _compiled_is_faster(speeds), arguments.seconds - (time.monotonic() - start))
    _report(arguments.results)


def train(arguments: argparse.Namespace, compiled: bool, seconds: float) -> None:
    """Every arm side by side, stopped after so many seconds."""
    shared = _without(sys.argv[1:], {"--arms", "--seconds"})
    shared += ["--compile"] * compiled
    script = str(Path(__file__).with_name("finetuning.py"))
    common = ["--results", str(arguments.results), "--epochs", str(arguments.epochs)]
    common += ["--batch-size", str(arguments.batch_size), "--threads", str(arguments.threads)]
    common += ["--seeds", *map(str, arguments.seeds)]
    processes = [
        subprocess.Popen([sys.executable, script, *shared, *common, "--arms", arm])
        for arm in arguments.arms
    ]
    end = time.monotonic() + seconds
    for arm, process in zip(arguments.arms, processes, strict=True):
        try:
            process.wait(max(end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            process.kill()
            print(f"{arm}: stopped, it was not done in time")


def _compiled_is_faster(speeds: Path) -> bool:
    epochs = {line["compiled"]: line["epoch"] for line in read_lines(speeds)}
    return bool(epochs[True] > epochs[False])


def _without(words: list[str], options: set[str]) -> list[str]:
    """``words`` without these options and their values."""
    left, dropping = [], False
    for word in words:
        if word.startswith("--"):
            dropping = word.partition("=")[0] in options
        if not dropping:
            left.append(word)
    return left


# -- speed ---------------------------------------------------------------------------------------


def speed(bench: Bench) -> list[dict[str, Any]]:
    """Images a second of everything that a step is made of, and of epochs."""
    arguments, device = bench.arguments, torch.device(bench.arguments.device)
    small = apply_plan(bench.plan, bench.task).model
    indices = torch.arange(min(arguments.batch_size, len(bench.data.train)))
    batch = bench.data.train.take(indices)
    images = to_channels_last(bench.data.normalise(batch.images.to(device)))
    labels = batch.labels.to(device)
    # channels_last of the images spreads through networks; finetuning lays out weights, too.
    network = copy.deepcopy(small).to(memory_format=torch.channels_last).train()
    teacher = copy.deepcopy(bench.task.model).to(memory_format=torch.channels_last)
    lines = []
    for compiled in (False, True):
        how = {"compiled": compiled, "batch": len(images), "device": _name(device)}
        called: Callable[[Tensor], Tensor] = torch.compile(network) if compiled else network
        alone = _per_second(partial(_step, called, None, images, labels), len(images))
        taught = _per_second(partial(_step, called, teacher, images, labels), len(images))
        recipe = FinetuneConfig(epochs=TRAINED, lr=0.01, batch_size=len(images), compile=compiled)
        assert bench.task.train is not None
        tuned = bench.task.train(copy.deepcopy(small), recipe)
        epoch = tuned.epochs[-1].images_per_second
        lines += [{**how, "network": alone, "with_teacher": taught, "epoch": epoch}]
    return lines


def _step(
    network: Callable[[Tensor], Tensor], teacher: nn.Module | None, images: Tensor, labels: Tensor
) -> None:
    with autocast(images.device, None):
        logits = network(images)
        if teacher is not None:
            with torch.no_grad():
                teacher(images)
    functional.cross_entropy(logits.float(), labels).backward()


def _per_second(step: Callable[[], None], images: int) -> float:
    for _ in range(WARM_UP):
        step()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    return STEPS * images / (time.perf_counter() - start)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device)


# -- report --------------------------------------------------------------------------------------


def _report(path: Path) -> None:
    lines = read_lines(path.with_stem(f"{path.stem}-speed"))
    table = Table(title="images a second")
    for heading in (
        *("device", "batch", "compiled", "network alone", "with its teacher", "epoch"),
        "epoch / network with teacher",
    ):
        table.add_column(heading, justify="right")
    for line in lines:
        rates = [f"{line[name]:,.0f}" for name in ("network", "with_teacher", "epoch")]
        share = f"{line['epoch'] / line['with_teacher']:.0%}"
        compiled = "yes" if line["compiled"] else "no"
        table.add_row(line["device"], str(line["batch"]), compiled, *rates, share)
    Console(width=150).print(table)
    report(path)


if __name__ == "__main__":
    main()
