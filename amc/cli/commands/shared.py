"""What the commands share: settings out of options, progress bars, how a recovery ends."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape

from amc.cost.quantities import limits_name, written_bound
from amc.errors import ConfigError

if TYPE_CHECKING:
    from amc.cli.given import Given
    from amc.config import (
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


def network(given: Given, spec: str | None = None) -> ModelConfig | None:
    """The network that was named, as MODEL or in a file; None where none was.

    Of a file, weights and arguments are those of its own network, not of another MODEL.
    """
    from amc.config import ModelConfig
    from amc.presets import in_file

    table = dict(given.file.get("model") or {})
    if spec is not None and spec != table.get("spec"):
        table = {"spec": spec}
    if "spec" not in table:
        return None
    if spec is None and in_file(table["spec"]):
        raise ConfigError(
            f"--config names {table['spec']}, a Python file that would be run; if you trust it, "
            f"name it as MODEL: {table['spec']}"
        )
    if "model.weights" in given.typed:
        table["weights"] = given.typed["model.weights"]
    if "model.arguments" in given.typed:
        table["arguments"] = model_arguments(given.typed["model.arguments"])
    return ModelConfig.parse(table)


def named_network(given: Given, spec: str | None, usage: str) -> ModelConfig:
    """:func:`network`; raises :class:`ConfigError` where none was named."""
    found = network(given, spec)
    if found is None:
        raise ConfigError(f"name the network: {usage}, or a --config that names it")
    return found


def model_arguments(texts: list[str]) -> dict[str, Any]:
    """The factory's; raises :class:`ConfigError` for a text that is not KEY=VALUE."""
    values: dict[str, Any] = {}
    for argument in texts:
        key, equals, value = argument.partition("=")
        if not equals:
            raise ConfigError(f"--model-arg {argument!r}: write KEY=VALUE")
        try:
            values[key] = json.loads(value)
        except json.JSONDecodeError:
            values[key] = value
    return values


def images(given: Given) -> DataConfig:
    """The images; a Python file that would be run for them must have been typed."""
    from amc.config import DataConfig
    from amc.presets import in_file

    config = DataConfig.parse(given.settings().get("data") or {})
    if in_file(config.spec) and "data.spec" not in given.typed:
        raise ConfigError(
            f"--config names {config.spec}, a Python file that would be run; if you trust it, name "
            f"it: --data {config.spec}"
        )
    return config


def budget_texts(given: Given, default: list[str]) -> list[str]:
    """The budget as it is typed: what was, or what the file has, or the default."""
    if "budget" in given.typed:
        return list(given.typed["budget"])
    if "budget" in given.file:
        limits = given.file["budget"].items()
        return [
            f"{k}={written_bound(k, tuple(x) if isinstance(x, list) else x)}" for k, x in limits
        ]
    return default


def multiples(given: Given) -> dict[str, Any]:
    """``round_to``, where it was typed; raises :class:`ConfigError` where it does not parse."""
    from amc.bounds import parse_multiples

    texts = given.typed.get("round_to")
    return {"round_to": parse_multiples(texts)} if texts else {}


def aligned(given: Given, *aims: str) -> dict[str, Any]:
    """``round_to``, and ``align``: whether widths are those that the device likes.

    They are where ``auto`` says so, and where nothing does but latency is among the ``aims``:
    budgets, and what else a search is after.
    """
    texts = given.typed.get("round_to", [])
    if "auto" in texts:
        return {"align": True, "round_to": 1}
    if texts:
        return {"align": False, **multiples(given)}
    if given.file.keys() & {"align", "round_to"}:
        return {}
    return {"align": any("latency" in aim for aim in aims)}


def latency_config(given: Given) -> LatencyConfig:
    """What latency is measured in: a runtime that has no GPU measures on the CPU."""
    from amc.config import LatencyConfig
    from amc.latency.backends import default_backend
    from amc.registry import BACKENDS

    table = dict(given.settings().get("latency") or {})
    table.setdefault("backend", default_backend().name)
    if "device" not in table or given.typed.keys() & {"device", "latency.backend"}:
        on_gpu = "cuda" in BACKENDS.load(table["backend"]).devices
        table["device"] = given["device"] if on_gpu else "cpu"
    return LatencyConfig.parse(table)


def finetuning(given: Given) -> FinetuneConfig:
    """The finetuning that follows a search, with its seed and, unless it has one of its own, its
    precision."""
    from amc.config import FinetuneConfig

    table = dict(given.settings().get("finetune") or {})
    if "seed" not in table or "seed" in given.typed:
        table["seed"] = given["seed"]
    chosen = {True: "bf16", False: "fp32"}.get(given["evaluate.bf16"])
    if chosen is not None and "precision" not in table:
        table["precision"] = chosen
    return FinetuneConfig.parse(table)


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


def print_notes(notes: Iterable[str]) -> None:
    """The first lines: what was chosen for the user, and what he should know before he begins."""
    for note in notes:
        label, _, text = note.partition("  ")
        style = "[yellow]{}[/]" if label == "warning" else "{}"
        console.print(
            f"{style.format(f'{label:<10}')}  {escape(text)}", highlight=False, soft_wrap=True
        )


def recover_plan(
    task: Task,
    folder: RunFolder,
    recipe: FinetuneConfig,
    done: Results | None = None,
    *,
    resume: bool = False,
    quiet: bool = False,
) -> None:
    """Slice the folder's plan, finetune and report, unless that is ``done``; show the outcome."""
    from amc.pipeline.recovery import recover
    from amc.pruning.plan import Plan
    from amc.reporting.outcome import outcome
    from amc.reporting.terminal import results_table

    if done is None:
        with progress_bar(quiet=quiet) as bar:
            done = recover(
                task,
                Plan.load(folder.plan),
                recipe,
                folder,
                resume=resume,
                on_stage=bar.stage,
                on_epoch=bar.epoch,
                on_step=bar.step("finetune"),
                on_note=bar.note,
            )
    console.print(results_table(done))
    for name, text in outcome(done).items():
        console.print(f"{name:<11} {text}", highlight=False, soft_wrap=True)
    console.print(f"network     {folder.finetuned if done.epochs else folder.pruned}")
    console.print(f"report      {folder.report}")
    dense, last_row = done.row("dense"), done.rows[-1]
    if dense is not None and (done.time_ms(dense) or 0) < (done.time_ms(last_row) or 0):
        console.print(
            f"no faster   amc measure {folder.path} says where the time goes; a search can bound "
            "it (--budget latency=0.6), or keep widths that devices like (--round-to 8)",
            highlight=False,
        )
