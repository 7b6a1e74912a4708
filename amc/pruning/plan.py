"""The plan: how much of every unit of one network is kept, and which channels those are.

``plan.json`` is what AMC's papers call the best policy or strategy. It names the network, and holds
for each unit its dense width and the kept groups, so that the same channels are cut from the same
weights anywhere, whatever ranked them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from amc.config import ModelConfig
from amc.cost.quantities import quantity
from amc.cost.table import CostTable
from amc.errors import PlanError
from amc.pruning.slicing.slice import attribute_sizes
from amc.tracing.inputs import Inputs
from amc.tracing.units import Units
from amc.utils.json_document import JsonDocument
from amc.utils.settings import Settings


class UnitPlan(Settings):
    """One unit: its name, its dense width, and the groups that are kept."""

    name: str
    width: Annotated[int, Field(ge=1)]
    kept: tuple[int, ...]

    @model_validator(mode="after")
    def _sound(self) -> UnitPlan:
        inside = all(0 <= group < self.width for group in self.kept)
        if not inside or len(set(self.kept)) != len(self.kept):
            raise ValueError(f"{self.name}: kept groups must be distinct, in 0..{self.width - 1}")
        return self


class Plan(JsonDocument):
    """Kept groups of every unit, what they cost, and the network they belong to."""

    kind = "a sound plan"
    fault = PlanError
    format: Literal["amc.plan/2"] = "amc.plan/2"
    model: ModelConfig | None = None
    """How to build the dense network; None where it was handed over as an object."""
    weights_sha256: str
    """Of the dense weights that the plan was made for."""
    input_shape: tuple[PositiveInt, ...] | None = None
    """Of the traced input, batch included; None where it was not one tensor alone."""
    units: tuple[UnitPlan, ...]
    sizes: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Integers of modules that are smaller in the sliced network, by path."""
    costs: dict[str, int | float]
    """Absolute, by quantity (:mod:`amc.cost.quantities`): as far as the search knew them."""
    dense_costs: dict[str, int | float]
    """The same of the dense network."""
    quality: dict[str, float] = Field(default_factory=dict)
    """Search-val quality of the sliced network before finetuning."""

    @model_validator(mode="after")
    def _named_once(self) -> Plan:
        names = [unit.name for unit in self.units]
        if len(set(names)) != len(names):
            raise ValueError("a unit is named twice")
        return self

    @model_validator(mode="before")
    @classmethod
    def _by_quantity(cls, values: Any) -> Any:
        """A file of version 1 had fields for each cost."""
        if not isinstance(values, dict) or values.get("format") != "amc.plan/1":
            return values
        old = ("macs", "params", "latency_us")
        rest = {k: v for k, v in values.items() if k.removeprefix("dense_") not in old}
        known = [name for name in old if values.get(name) is not None]
        return rest | {
            "format": "amc.plan/2",
            "costs": {name: values[name] for name in known},
            "dense_costs": {name: values.get(f"dense_{name}") for name in known},
        }

    @model_validator(mode="after")
    def _sound_costs(self) -> Plan:
        if self.costs.keys() != self.dense_costs.keys() or "macs" not in self.costs:
            raise ValueError("costs and dense_costs must have the same quantities, macs among them")
        for name, cost in (*self.costs.items(), *self.dense_costs.items()):
            if quantity(name).measure.whole and not isinstance(cost, int):
                raise ValueError(f"{name} must be a whole number (got {cost})")
        return self

    @property
    def kept(self) -> dict[str, float]:
        """Costs as fractions of the dense network's, by quantity."""
        return {name: cost / self.dense_costs[name] for name, cost in self.costs.items()}

    def widths(self) -> tuple[int, ...]:
        """Kept width of each unit."""
        return tuple(len(unit.kept) for unit in self.units)

    def order(self, units: Units) -> Units:
        """``units``, with the groups that this plan keeps ranked first.

        Units that the plan does not mention, kept whole, are dropped. Raises :class:`PlanError`
        where the plan names a unit that the network lacks, or one of another width.
        """
        known = {unit.name: unit for unit in units}
        items = []
        for entry in self.units:
            unit = known.get(entry.name)
            if unit is None or unit.width != entry.width:
                found = "has no such unit" if unit is None else f"has it with width {unit.width}"
                raise PlanError(
                    f"the plan's unit {entry.name!r} (width {entry.width}) does not fit: the "
                    f"network {found}; was the plan made for another model?"
                )
            rest = np.setdiff1d(np.arange(unit.width), entry.kept)
            order = np.concatenate([np.array(entry.kept, dtype=np.int64), rest])
            items.append(replace(unit, order=order, droppable=not entry.kept))
        return replace(units, items=tuple(items))


def plan_of(
    cost: CostTable,
    widths: Sequence[int],
    *,
    weights_sha256: str,
    model: ModelConfig | None = None,
    quality: Mapping[str, float] | None = None,
    example_inputs: Any = None,
) -> Plan:
    """The plan that keeps ``widths[u]`` of each unit of ``cost.units``."""
    units = cost.units
    alone = _alone(example_inputs)
    return Plan(
        model=model,
        weights_sha256=weights_sha256,
        input_shape=None if alone is None else tuple(alone.shape),
        units=tuple(
            UnitPlan(name=unit.name, width=unit.width, kept=tuple(unit.kept(width).tolist()))
            for unit, width in zip(units, units.check(widths), strict=True)
        ),
        sizes=attribute_sizes(units, widths),
        costs=cost.costs(widths),
        dense_costs=cost.costs(units.dense_widths),
        quality=dict(quality or {}),
    )


def _alone(example_inputs: Any) -> Tensor | None:
    """The tensor that is the one positional argument; None where there are others."""
    if isinstance(example_inputs, Inputs):
        return example_inputs.alone
    given = example_inputs if isinstance(example_inputs, tuple | list) else (example_inputs,)
    return Inputs(*given).alone
