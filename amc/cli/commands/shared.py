"""What the commands share: settings out of options, progress bars, how a recovery ends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from rich.console import Console

from amc.cost.quantities import limits_name
from amc.errors import ConfigError

if TYPE_CHECKING:
    from amc.config import (
        Bounds,
        DataConfig,
        FinetuneConfig,
        LatencyConfig,
        ModelConfig,
        SearchConfig,
    )
    from amc.records.results import Results
    from amc.records.run_folder import RunFolder
    from amc.reporting.progress import Bar
    from amc.task import Task

console = Console()


def model_config(spec: str, weights: str | None, arguments: list[str]) -> ModelConfig:
    """The network; raises :class:`ConfigError` for an argument that is not KEY=VALUE."""
    from amc.config import ModelConfig

    values: dict[str, Any] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"--model-arg {argument!r}: write KEY=VALUE")
        try:
            values[key] = json.loads(value)
        except json.JSONDecodeError:
            values[key] = value
    return ModelConfig(spec=spec, weights=weights, arguments=values)


def data_config(
    spec: str, search_val: str | None, image_size: int | None, download: bool
) -> DataConfig:
    """The images."""
    from amc.config import DataConfig

    return DataConfig(spec=spec, search_val=search_val, image_size=image_size, download=download)


def bounds(
    min_keep: float,
    min_width: int,
    round_to: list[str],
    exclude: list[str],
    gentle_ends: bool,
    allow_drop: bool,
) -> Bounds:
    """The allowed widths; raises :class:`ConfigError` for multiples that do not parse."""
    from amc.config import Bounds, parse_multiples

    return Bounds.parse(
        {
            "min_keep": min_keep,
            "min_width": min_width,
            "round_to": parse_multiples(round_to) or 1,
            "exclude": exclude,
            "gentle_ends": gentle_ends,
            "allow_drop": allow_drop,
        }
    )


def aligned(round_to: list[str], *aims: str) -> tuple[bool, list[str]]:
    """Whether widths are those that the device likes, and otherwise the multiples of --round-to.

    They are where ``auto`` says so, and where nothing does but latency is among the ``aims``:
    budgets, and what else a search is after.
    """
    latency = any("latency" in aim for aim in aims)
    align = "auto" in round_to or (not round_to and latency)
    return align, [] if align else round_to


def evaluation(
    images: int, calibration_images: int, bf16: bool | None, reconstruct: bool = False
) -> dict[str, Any]:
    """How plans are scored."""
    return {
        "images": images,
        "calibration_images": calibration_images,
        "bf16": bf16,
        "reconstruct": reconstruct,
    }


def latency_config(backend: str | None, batch: int, threads: int, device: str) -> LatencyConfig:
    """What latency is measured in: a runtime that has no GPU measures on the CPU."""
    from amc.config import LatencyConfig
    from amc.latency.backends import default_backend
    from amc.registry import BACKENDS

    name = default_backend().name if backend is None else backend
    on_gpu = "cuda" in BACKENDS.load(name).devices
    return LatencyConfig.parse(
        {
            "backend": name,
            "batch": batch,
            "threads": threads,
            "device": device if on_gpu else "cpu",
        }
    )


def problem_name(config: SearchConfig) -> str:
    """For a folder: the network, and what is wanted of it."""
    name = config.model.spec.rpartition(":")[2] if config.model else "model"
    aims = [limits_name(config.budget)] if config.budget else []
    aims += [f"accuracy{config.min_accuracy:g}"] if config.min_accuracy is not None else []
    return "-".join([name, *(aims or [config.reward])])


def input_shape(given: str | None) -> tuple[int, ...] | None:
    """``"3,224,224"`` as numbers; raises :class:`ConfigError` where it does not parse."""
    if given is None:
        return None
    try:
        return tuple(int(part) for part in given.split(","))
    except ValueError:
        raise ConfigError(f"--input {given!r}: write C,H,W, for example 3,224,224") from None


def set_threads(threads: int | None) -> None:
    """PyTorch's, unless None."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def progress_bar(*, quiet: bool = False, episodes: int | None = None) -> Bar:
    """A bar that knows, where it can, how many episodes are to come."""
    from amc.reporting.progress import Bar

    return Bar(quiet=quiet, episodes=episodes)


def recover_plan(
    task: Task, folder: RunFolder, recipe: FinetuneConfig, done: Results | None = None
) -> None:
    """Slice the folder's plan, finetune and report, unless that is ``done``; show the outcome."""
    from amc.pipeline.recovery import recover
    from amc.pruning.plan import Plan
    from amc.reporting.report import results_table

    if done is None:
        with progress_bar() as bar:
            done = recover(
                task,
                Plan.load(folder.plan),
                recipe,
                folder,
                on_stage=bar.stage,
                on_epoch=bar.epoch,
                on_step=bar.step("finetune"),
            )
    console.print(results_table(done))
    if done.epochs:
        last, best = done.epochs[-1], max(done.epochs, key=lambda e: e.test_accuracy)
        console.print(
            f"finetuned   {last.test_accuracy:.2%} after the last epoch (kept), "
            f"{best.test_accuracy:.2%} after the best, {best.number}",
            highlight=False,
        )
    console.print(f"network     {folder.finetuned if done.epochs else folder.pruned}")
    console.print(f"report      {folder.report}")
    dense, last_row = done.row("dense"), done.rows[-1]
    if dense is not None and (done.time_ms(dense) or 0) < (done.time_ms(last_row) or 0):
        console.print(
            f"no faster   amc measure {folder.path} says where the time goes; a search can bound "
            "it (--budget latency=0.6), or keep widths that devices like (--round-to 8)",
            highlight=False,
        )
