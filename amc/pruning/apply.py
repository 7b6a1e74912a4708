"""From a plan to a network: slice the original weights, verify, mend, recalibrate, measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from amc.pruning.find_units import read_units
from amc.pruning.plan import Plan
from amc.pruning.reconstruction import Reconstructor
from amc.pruning.slicing.attributes import stale
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify
from amc.task import Task
from amc.tracing.units import Units


@dataclass(frozen=True, eq=False)
class Applied:
    """A sliced network that was proven equal to its masked twin before it was changed further."""

    model: nn.Module
    """Really smaller; mended where the task says so, BatchNorm recalibrated."""
    verified_error: float
    """Worst error against the masked twin, relative to the largest output."""
    quality: Mapping[str, float]
    """On search-val, before finetuning."""
    stale: tuple[str, ...] = ()
    """Attributes of its modules that may still state sizes of the dense network."""


def apply_plan(plan: Plan, task: Task) -> Applied:
    """Cut ``task.model`` as ``plan`` says; the model itself is untouched.

    Raises :class:`PlanError` where the plan belongs to another network,
    :class:`VerificationError` where the sliced network differs from its masked twin, and
    :class:`ConfigError` where ``task.reconstruct`` lacks calibration inputs.
    """
    small, units, error = cut(plan, task.model, task.example_inputs)
    if task.reconstruct:
        Reconstructor(task.model, units, task.calibration)(small, plan.widths())
    return Applied(small, error, task.evaluate(small), tuple(stale(units, plan.widths())))


def cut(plan: Plan, model: nn.Module, example_inputs: Any) -> tuple[nn.Module, Units, float]:
    """The sliced network as it was cut, the plan's units, and the network's error
    against the masked twin."""
    units = plan.order(read_units(model, example_inputs))
    small = slice_model(model, units, plan.widths())
    return small, units, verify(model, small, units, plan.widths(), example_inputs)
