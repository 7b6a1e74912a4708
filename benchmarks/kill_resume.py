"""Does a finetuning that was killed end as if it had not been? Many are, at any moment.

A small run on the digits is made once. ``amc finetune RUN`` is then killed (SIGKILL: nothing is
written any more) at a random moment between its start and its end, gone on with by ``--resume``,
sometimes killed again, and so on until it ends. Its network must be equal to that of a finetuning
that nobody killed, bit by bit. Where no checkpoint had been written yet, ``--resume`` must say so,
and the finetuning is begun anew.

A line for each in ``results/kill-resume.jsonl``; those that are there are not done again.

    python benchmarks/kill_resume.py
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from common import RESULTS, append_line, read_lines
from finetuning_common import parse_or_report
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from amc.config import FinetuneConfig
from amc.pipeline.demo import DEMO_DATA, train_dense
from amc.pipeline.search import search
from amc.records.run_folder import RunFolder
from amc.training.finetune import unfinished
from amc.vision.task import image_task

AGAIN = 0.4
"""Of the finetunings that were gone on with are killed again."""
MOST_KILLS = 4
_EVERY_STEP = 1e-6
"""Minutes between two checkpoints: no step is as short."""
NOTHING_LEFT = "holds no interrupted finetuning"


class Kill(NamedTuple):
    """When a process is killed."""

    training: bool
    """Counted from the first checkpoint that it writes, or from its start."""
    seconds: float

    def earlier(self) -> Kill:
        """At two thirds of the time."""
        return Kill(self.training, 2 / 3 * self.seconds)

    def __str__(self) -> str:
        return f"{self.seconds:.1f} {'of training' if self.training else 'from the start'}"


class Times(NamedTuple):
    """Seconds of a finetuning that nobody kills."""

    start_up: float
    training: float


@dataclass
class Story:
    """What happened to one finetuning."""

    kills: list[Kill] = field(default_factory=list)
    steps: list[int | str] = field(default_factory=list)
    """Of the newest checkpoint then; ``none``, or ``all`` where the network had been saved."""
    begun: float = 0.0
    """When the last process wrote its first checkpoint, in seconds since 1970."""
    said: list[str] = field(default_factory=list)
    """What was wrong, if anything."""


def main() -> None:
    """Kill what has not been killed, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=20, help="finetunings that are killed")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parse_or_report(parser, RESULTS / "kill-resume.jsonl", report)
    work = arguments.work / f"kill-resume-{arguments.epochs}"
    work.mkdir(parents=True, exist_ok=True)
    run = made_once(arguments, work)
    whole, times = uninterrupted(arguments, run, work)
    names = ("number", "times", "seed", "epochs")
    done = {tuple(x[name] for name in names) for x in read_lines(arguments.results)}
    for number, kill in enumerate(first_kills(arguments.times, arguments.seed, times)):
        key = {"number": number, "times": arguments.times, "seed": arguments.seed}
        key |= {"epochs": arguments.epochs}
        if tuple(key.values()) in done:
            continue
        story, copy = Story(), work / f"killed-{number}"
        random = np.random.default_rng((arguments.seed, number))
        while not story.kills and not story.said:
            finish(arguments, run, copy, story, kill, times, random)
            kill = kill.earlier()  # it may have ended before
        different = differing(RunFolder(copy).finetuned, whole)
        if RunFolder(copy).finetuning.exists():
            story.said.append("its checkpoints are left")
        line = {**key, **vars(story), "different": different, "seconds": times}
        del line["begun"]
        append_line(arguments.results, line)
        print(
            f"{number}: killed after {', '.join(map(str, story.kills))}: "
            f"{'identical' if not different else f'{len(different)} tensors differ'}",
            flush=True,
        )
        if not different and not story.said:
            shutil.rmtree(copy)
    report(arguments.results)


# -- the run -------------------------------------------------------------------------------------


def amc(arguments: argparse.Namespace, *words: str | Path) -> list[str]:
    """A command line, with the threads of the options."""
    return [sys.executable, "-m", "amc", *map(str, words), "--threads", str(arguments.threads)]


def made_once(arguments: argparse.Namespace, work: Path) -> Path:
    """The folder of a searched run that nobody has finetuned, with its recipe."""
    run, draft = work / "run", work / "run.part"
    if not run.exists():
        task = image_task(train_dense(work, seed=0), DEMO_DATA, progress=False)
        recipe = FinetuneConfig(epochs=arguments.epochs, checkpoint_minutes=_EVERY_STEP)
        shutil.rmtree(draft, ignore_errors=True)
        given: dict[str, Any] = {"agent": "reference", "episodes": 1, "data": DEMO_DATA}
        search(task, "flops=0.5", run=draft, finetune=recipe, **given)
        draft.rename(run)
    return run


def uninterrupted(
    arguments: argparse.Namespace, run: Path, work: Path
) -> tuple[dict[str, torch.Tensor], Times]:
    """The tensors that nobody interrupted, and how long that takes now."""
    whole = work / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    shutil.copytree(run, whole)
    story, start = Story(), time.time()
    folder = RunFolder(whole)
    killed(arguments, amc(arguments, "finetune", whole), folder, Kill(True, math.inf), story)
    if story.said:
        raise SystemExit(f"amc finetune fails even where nobody kills it: {story.said[0]}")
    return load_file(folder.finetuned), Times(story.begun - start, time.time() - story.begun)


def _environment(arguments: argparse.Namespace) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": str(arguments.threads), "COLUMNS": "400"}


# -- killing -------------------------------------------------------------------------------------


def first_kills(count: int, seed: int, times: Times) -> list[Kill]:
    """In any order: a random moment in each of so many equal parts, a quarter of them in start-up,
    the others from the first checkpoint to the end."""
    random = np.random.default_rng(seed)
    early = max(count // 4, 1)

    def spread(training: bool, parts: int, seconds: float) -> list[Kill]:
        moments = (np.arange(parts) + random.random(parts)) / max(parts, 1) * seconds
        return [Kill(training, float(moment)) for moment in moments]

    kills = spread(False, early, times.start_up) + spread(True, count - early, times.training)
    return [kills[index] for index in random.permutation(count)]


def finish(
    arguments: argparse.Namespace,
    run: Path,
    copy: Path,
    story: Story,
    kill: Kill,
    times: Times,
    random: np.random.Generator,
) -> None:
    """Finetune a copy of ``run``, killed as ``kill`` says, and at times again."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    anew, resuming = amc(arguments, "finetune", copy), amc(arguments, "finetune", copy, "--resume")
    command, folder = anew, RunFolder(copy)
    while killed(arguments, command, folder, kill, story):
        story.kills.append(kill)
        left = unfinished(folder.finetuning)
        ended = folder.finetuned.exists() and left is None
        story.steps.append(left.steps if left is not None else "all" if ended else "none")
        if ended:
            return  # but for its report
        if left is None:
            refused = subprocess.run(
                resuming, capture_output=True, text=True, env=_environment(arguments)
            )
            if refused.returncode == 0 or NOTHING_LEFT not in refused.stdout + refused.stderr:
                story.said.append("--resume without a checkpoint was not refused")
        command = anew if left is None else resuming
        again = random.random() < AGAIN and len(story.kills) < MOST_KILLS
        kill = Kill(True, float(random.uniform(0, times.training)) if again else math.inf)


def killed(
    arguments: argparse.Namespace, command: list[str], folder: RunFolder, kill: Kill, story: Story
) -> bool:
    """Run ``command``, and kill it as ``kill`` says; False where it ended before."""
    started, begun = time.time(), None
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=_environment(arguments)
        )
        while process.poll() is None:
            now = time.time()
            if begun is None and _written_since(folder.finetuning, started):
                begun = story.begun = now
            since = begun if kill.training else started
            if since is not None and now - since >= kill.seconds:
                process.kill()
                process.wait()
                return True
            time.sleep(0.005)
        output.seek(0)
        lines = output.read().strip().splitlines()
    if process.returncode:
        story.said.append(lines[-1] if lines else f"exit status {process.returncode}")
    return False


def _written_since(folder: Path, moment: float) -> bool:
    """Whether a checkpoint is newer."""
    for path in folder.glob("checkpoint-?.pt"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime > moment:
                return True
    return False


def differing(path: Path, whole: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors in ``path`` that are not bit-identical to those of ``whole``."""
    if not path.exists():
        return sorted(whole)
    found = load_file(path)
    names = sorted(whole.keys() | found.keys())
    return [
        name
        for name in names
        if name not in whole
        or name not in found
        or whole[name].dtype != found[name].dtype
        or whole[name].shape != found[name].shape
        or whole[name].numpy().tobytes() != found[name].numpy().tobytes()
    ]


# -- report --------------------------------------------------------------------------------------


def report(path: Path) -> None:
    """When each was killed, and whether that could be told from its end."""
    lines = read_lines(path)
    table = Table(title=f"{len(lines)} finetunings killed and gone on with")
    for heading in ("", "killed after, s", "steps in the checkpoint", "network", "wrong"):
        table.add_column(heading, justify="right")
    for line in sorted(lines, key=_first_kill):
        table.add_row(
            str(line["number"]),
            ", ".join(str(Kill(*kill)) for kill in line["kills"]),
            ", ".join(map(str, line["steps"])),
            "identical" if not line["different"] else f"{len(line['different'])} tensors differ",
            "; ".join(line["said"]),
        )
    Console(width=150).print(table)
    sound = sum(not line["different"] and not line["said"] for line in lines)
    kills = sum(len(line["kills"]) for line in lines)
    print(f"{sound} of {len(lines)} end bit-identical to an uninterrupted one, after {kills} kills")


def _first_kill(line: dict[str, Any]) -> list[Any]:
    return list(line["kills"][:1])


if __name__ == "__main__":
    main()
