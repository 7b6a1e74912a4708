"""From a plan to a network: slice the original weights, verify, recalibrate, measure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from amc.find import read_units
from amc.plan import Plan
from amc.slim import slice_model
from amc.task import Task
from amc.verification import verify


@dataclass(frozen=True, eq=False)
class Applied:
    """A sliced network that has been proven equal to its masked twin."""

    model: nn.Module
    """Really smaller, BatchNorm recalibrated."""
    verified_error: float
    """Worst error against the masked twin, relative to the largest output."""
    quality: Mapping[str, float]
    """On search-val, before finetuning."""


def apply_plan(plan: Plan, task: Task) -> Applied:
    """Cut ``task.model`` as ``plan`` says; the model itself is untouched.

    Raises :class:`PlanError` where the plan belongs to another network, and
    :class:`VerificationError` where the sliced network differs from its masked twin.
    """
    small, error = cut(plan, task.model, task.example_inputs)
    return Applied(small, error, task.evaluate(small))


def cut(plan: Plan, model: nn.Module, example_inputs: Any) -> tuple[nn.Module, float]:
    """The sliced network as it comes from the knife, and its error against the masked twin."""
    units = plan.order(read_units(model, example_inputs))
    small = slice_model(model, units, plan.widths())
    return small, verify(model, small, units, plan.widths(), example_inputs)
