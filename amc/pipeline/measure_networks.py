"""The networks of a run, a file or a name, ready to be measured side by side, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amc.config import ModelConfig
from amc.errors import ConfigError, ModelError
from amc.latency.backends import Backend, Inputs
from amc.latency.breakdown import Explanation, explain
from amc.latency.measurement import Clock, Latency, judge, measure
from amc.models.factory import build_model, example_shape
from amc.modules.completing import initialise_lazy_
from amc.pruning.checkpoint import load_model, untrained
from amc.records.run_folder import RunFolder
from amc.tracing.inputs import example_of
from amc.tracing.trace import trace


@dataclass(frozen=True)
class Subjects:
    """Networks by name, the dense one first, and the shape of one example."""

    models: Mapping[str, nn.Module]
    shape: tuple[int, ...]

    def inputs(self, batch: int) -> Inputs:
        """So many random examples."""
        return Inputs(torch.randn(batch, *self.shape, generator=torch.Generator().manual_seed(0)))


@dataclass(frozen=True)
class Measured:
    """One network's numbers."""

    name: str
    macs: int
    """One example."""
    params: int
    latency: Latency


@dataclass(frozen=True)
class Measurement:
    """Networks side by side in one runtime."""

    runtime: Backend
    batch: int
    shape: tuple[int, ...]
    rows: tuple[Measured, ...]
    clock: Clock
    """By which they compare."""
    warning: str
    """Why not by the wall clock, or why neither; empty where all is well."""
    explanation: Explanation | None
    """Where the last network's time went, if that fell less than its MACs; None also where the
    runtime does not tell."""

    @property
    def kept_time(self) -> float:
        """The last network's, as a fraction of the first one's."""
        return self.rows[-1].latency.ms(self.clock) / self.rows[0].latency.ms(self.clock)

    @property
    def kept_macs(self) -> float:
        """As a fraction, too."""
        return self.rows[-1].macs / max(1, self.rows[0].macs)

    def as_json(self) -> dict[str, Any]:
        """Plain values: fractions, counts and milliseconds."""
        found = self.explanation
        return {
            "format": "amc.measure/1",
            "runtime": self.runtime.identity(),
            "description": self.runtime.description,
            "batch": self.batch,
            "shape": self.shape,
            "clock": self.clock,
            "warning": self.warning,
            "networks": [
                {"name": row.name, "macs": row.macs, "params": row.params} | asdict(row.latency)
                for row in self.rows
            ],
            "kept_macs": self.kept_macs,
            "kept_time": self.kept_time,
            "explanation": None
            if found is None
            else {**asdict(found), "missing_ms": found.missing_ms, "causes_ms": found.causes()},
        }


def open_subjects(
    source: str,
    shape: tuple[int, ...] | None = None,
    *,
    weights: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    allow_factory: bool = False,
) -> Subjects:
    """The networks of a run's folder, of a ``.safetensors`` of ours, or of a model's name.

    The first two bring the dense network along, with weights that were never trained: they take as
    long. ``shape`` replaces the one that the network was made for. Raises :class:`ConfigError`
    where ``weights`` or ``arguments`` are given for a network that has its own, :class:`ModelError`
    where a network cannot be built, and :class:`~amc.errors.RunError` where a run has none yet.
    """
    path = Path(source)
    if not path.is_dir() and path.suffix != ".safetensors":
        config = ModelConfig(spec=source, arguments=dict(arguments or {}), weights=weights)
        return _complete({"dense": build_model(config)}, shape or example_shape(source))
    if weights or arguments:
        raise ConfigError(f"{source} has weights and arguments of its own; leave out yours")
    models: dict[str, nn.Module] = {}
    for file in _files(path):
        model, card = load_model(file, allow_factory=allow_factory)
        models.setdefault("dense", build_model(untrained(card.model)))
        models["finetuned" if card.finetuned_epochs else "pruned"] = model
    shape = shape or (card.plan.input_shape or ())[1:]
    if not shape:
        raise ModelError(f"{source} does not say what its input looks like: give --input C,H,W")
    return _complete(models, shape)


def _complete(models: dict[str, nn.Module], shape: tuple[int, ...]) -> Subjects:
    for model in models.values():
        initialise_lazy_(model, partial(model, example_of(model, (1, *shape))))
    return Subjects(models, shape)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    folder = RunFolder.open(path)
    folder.network()  # or an error that tells how to make one
    return [file for file in (folder.pruned, folder.finetuned) if file.is_file()]


def measure_subjects(
    subjects: Subjects, runtime: Backend, *, batch: int = 1, repeats: int = 30
) -> Measurement:
    """Latency of all of them in turns, and where the last one's time went.

    Raises what :meth:`amc.latency.backends.base.Backend.load` raises.
    """
    inputs = subjects.inputs(batch)
    models = subjects.models
    forwards = [runtime.load(model, inputs) for model in models.values()]
    latencies = measure(forwards, repeats=repeats, time=runtime.time)
    clock, warning = judge(latencies, runtime.device)
    rows = tuple(
        Measured(
            name=name,
            macs=sum(x.macs for x in trace(model, inputs.suited(model)).layers) // batch,
            params=sum(parameter.numel() for parameter in model.parameters()),
            latency=latency,
        )
        for (name, model), latency in zip(models.items(), latencies, strict=True)
    )
    measured = Measurement(runtime, batch, subjects.shape, rows, clock, warning, None)
    if measured.kept_time <= measured.kept_macs or len(rows) == 1:
        return measured
    dense, *_, last = models.values()
    # Operations are timed one by one by the wall clock: several threads' CPU time is not their sum.
    whole = clock if runtime.threads == 1 else "wall"
    ms = (latencies[0].ms(whole), latencies[-1].ms(whole))
    return replace(measured, explanation=explain(runtime, (dense, last), inputs, ms))
