"""What the benchmarks share: their inputs, and results that grow line by line."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from amc.comparison.compare import compare
from amc.comparison.settings import CompareConfig
from amc.comparison.statistics import Comparison
from amc.config import DataConfig, ModelConfig
from amc.vision.task import image_task

RESULTS = Path(__file__).parent / "results"
CHANGED = "+changes"
"""Marks the commit when files differ from it: such results are never taken for known."""


def add_inputs(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The options that name network, weights and images."""
    parser.add_argument("--network", default="resnet20", help="one of amc's own, amc:NAME")
    parser.add_argument("--weights", required=required)
    add_images(parser, required=required)


def add_images(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The options that name the images."""
    parser.add_argument("--images", required=required, help="folder with train/ and test/")
    parser.add_argument("--search-val", required=required, help="file of held-out training paths")


def data_config(arguments: argparse.Namespace) -> DataConfig:
    """The images that the options name."""
    return DataConfig(spec=f"imagefolder:{arguments.images}", search_val=arguments.search_val)


def configs(arguments: argparse.Namespace) -> tuple[ModelConfig, DataConfig]:
    """The network and the images that the options name."""
    model = ModelConfig(spec=f"amc:{arguments.network}", weights=arguments.weights)
    return model, data_config(arguments)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All results so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append_line(path: Path, result: dict[str, Any]) -> None:
    """Add one result."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(result) + "\n")


def cell(values: Sequence[float], form: str = ".3f") -> str:
    """Of a table: median (range)."""
    if not values:
        return ""
    median, low, high = (format(f(values), form) for f in (statistics.median, min, max))
    return median if low == high else f"{median} ({low} to {high})"


def begin_or_resume(run: Path, **settings: Any) -> dict[str, Any]:
    """Arguments of a search into ``run``: ``settings``, or to go on where one has begun there."""
    return {"run": run, "resume": True} if run.exists() else {"run": run, **settings}


def search_side_by_side(
    arguments: argparse.Namespace, config: CompareConfig, run: Path, jobs: int | None
) -> Comparison:
    """Do the searches of ``config`` that ``run`` lacks, on the network of the options."""
    model, data = configs(arguments)
    search = config.search.model_copy(update={"model": model, "data": data})
    make_task = partial(image_task, model, data, search.evaluate, progress=False)
    torch.set_num_threads(1)
    return compare(make_task, config.model_copy(update={"search": search}), run, workers=jobs)


def code_commit(*others: str) -> str:
    """The last commit that changed what is measured: the packages, and ``others`` beside them."""
    paths = ["amc", "envs", "agents", *others]

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words, "--", *paths],
            cwd=RESULTS.parent.parent,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    return git("log", "-1", "--format=%h") + (CHANGED if git("status", "--porcelain") else "")
