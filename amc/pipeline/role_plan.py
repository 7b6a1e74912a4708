"""A plan by role: what was kept of each kind of unit, in each stage, at each relative depth.

So a plan goes over to another checkpoint of its network, where other channels matter, and to a
sibling of another depth or width. It is the simplest transfer there is, and what a policy has to
beat: it knows nothing of the other network but its layout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import Field

from amc.errors import PlanError
from amc.models.factory import build_model, check_allowed
from amc.pruning.find_units import read_units
from amc.pruning.plan import Plan
from amc.tracing.inputs import example_of
from amc.tracing.units import Unit
from amc.utils.json_document import JsonDocument
from amc.utils.settings import Settings

Fraction = Annotated[float, Field(ge=0, le=1)]


class Position(NamedTuple):
    """Where a unit stands in its network."""

    kind: str
    """``conv``, ``stream``, ``heads``, ...: see :class:`amc.tracing.units.Unit`."""
    stage: float
    """0 where feature maps are largest, 1 where they are smallest, by rank of their size."""
    depth: float
    """Among the units of this kind and stage: 0 before the first, 1 behind the last."""


def positions_of(units: Sequence[Unit]) -> list[Position]:
    """The role of each unit; ``units`` are all that a network may lose something of, in order."""
    sizes = [unit.layers[0].height * unit.layers[0].width for unit in units]
    ranks = {size: rank for rank, size in enumerate(sorted(set(sizes), reverse=True))}
    places = [(unit.kind, ranks[size]) for unit, size in zip(units, sizes, strict=True)]
    alike, seen = Counter(places), Counter[tuple[str, int]]()
    found = []
    for kind, rank in places:
        depth = (seen[kind, rank] + 0.5) / alike[kind, rank]
        found.append(Position(kind, rank / max(1, len(ranks) - 1), depth))
        seen[kind, rank] += 1
    return found


class RoleKeep(Settings):
    """One unit of the source: its role, and the kept fraction."""

    kind: str
    stage: Fraction
    depth: Fraction
    keep: Fraction


class RolePlan(JsonDocument):
    """``plan.json`` without the names, widths and channels of its network."""

    kind = "a sound plan by role"
    fault = PlanError
    format: Literal["amc.role-plan/1"] = "amc.role-plan/1"
    units: tuple[RoleKeep, ...] = Field(min_length=1)
    kept_macs: Annotated[float, Field(gt=0, le=1)]
    """Fraction of its network's MACs that the plan keeps."""

    @classmethod
    def of(cls, plan: Plan, units: Sequence[Unit]) -> Self:
        """``plan`` by the roles of its units among ``units``, those of its network.

        Raises :class:`PlanError` where the plan names a unit that is not among them.
        """
        known = {unit.name: unit for unit in units}
        missing = [unit.name for unit in plan.units if unit.name not in known]
        if missing:
            raise PlanError(f"the plan's unit {missing[0]!r} is none of its network's")
        # Only units that were pruned count: what a trace shows may be left alone for a reason.
        roles = positions_of([known[unit.name] for unit in plan.units])
        keeps = tuple(
            RoleKeep(**role._asdict(), keep=len(unit.kept) / unit.width)
            for unit, role in zip(plan.units, roles, strict=True)
        )
        return cls(units=keeps, kept_macs=plan.kept["macs"])

    @classmethod
    def traced(cls, plan: Plan, name: str, *, allow_factory: bool = False) -> Self:
        """``plan``, whose network is built (without its weights) and traced for the roles.

        ``name`` is that of the plan, for messages. Raises :class:`PlanError` where the plan does
        not say how to build its network, and :class:`ModelError` where that fails, or would run a
        Python file that ``allow_factory`` does not allow.
        """
        if plan.model is None or plan.input_shape is None:
            raise PlanError(f"{name} names no factory or input; the roles of its units are unknown")
        check_allowed(plan.model, Path(name), allow_factory)
        with torch.random.fork_rng(devices=[]):  # its weights are drawn, and do not matter
            model = build_model(plan.model.model_copy(update={"weights": None}))
        return cls.of(plan, read_units(model, example_of(model, plan.input_shape)))

    def keeps(self, units: Sequence[Unit]) -> tuple[float, ...]:
        """Kept fractions (units,) for all ``units`` of a network: wishes, not yet on a budget.

        Each is interpolated between the source's units of the same kind in the nearest stage. A
        kind that the source does not have gets the mean of the source.
        """
        mean = float(np.mean([unit.keep for unit in self.units]))
        return tuple(self._keep(role, mean) for role in positions_of(units))

    def _keep(self, role: Position, mean: float) -> float:
        alike = [unit for unit in self.units if unit.kind == role.kind]
        if not alike:
            return mean
        nearest = min((unit.stage for unit in alike), key=lambda stage: abs(stage - role.stage))
        there = [unit for unit in alike if unit.stage == nearest]
        return float(np.interp(role.depth, [u.depth for u in there], [u.keep for u in there]))
