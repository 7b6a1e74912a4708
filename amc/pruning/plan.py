"""The plan: how much of every unit of one network is kept, and which channels those are.

``plan.json`` is what AMC's papers call the best policy or strategy. It names the network, and holds
for each unit its dense width and the kept groups, so that the same channels are cut from the same
weights anywhere, whatever ranked them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveInt, model_validator

from amc.config import ModelConfig
from amc.errors import PlanError
from amc.pruning.slicing.slice import attribute_sizes
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
    format: Literal["amc.plan/1"] = "amc.plan/1"
    model: ModelConfig | None = None
    """How to build the dense network; None where it was handed over as an object."""
    weights_sha256: str
    """Of the dense weights that the plan was made for."""
    input_shape: tuple[PositiveInt, ...] | None = None
    """Of the traced input, batch included; None where it was more than one tensor."""
    units: tuple[UnitPlan, ...]
    sizes: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    """Integers of modules that are smaller in the sliced network, by path."""
    macs: int
    params: int
    dense_macs: int
    dense_params: int
    latency_us: float | None = None
    """Predicted for the device of the search; None where it did not look at latency."""
    dense_latency_us: float | None = None
    quality: dict[str, float] = Field(default_factory=dict)
    """Search-val quality of the sliced network before finetuning."""

    @model_validator(mode="after")
    def _named_once(self) -> Plan:
        names = [unit.name for unit in self.units]
        if len(set(names)) != len(names):
            raise ValueError("a unit is named twice")
        return self

    @property
    def costs(self) -> dict[str, tuple[float, float]]:
        """By quantity, as far as they are known: absolute, and as a fraction of dense."""
        dense = {
            "macs": (self.macs, self.dense_macs),
            "params": (self.params, self.dense_params),
            "latency_us": (self.latency_us, self.dense_latency_us),
        }
        return {name: (own, own / all_) for name, (own, all_) in dense.items() if own and all_}

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
    units: Units,
    widths: Sequence[int],
    *,
    macs: tuple[int, int],
    params: tuple[int, int],
    latency_us: tuple[float, float] | None = None,
    weights_sha256: str,
    model: ModelConfig | None = None,
    quality: dict[str, float] | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> Plan:
    """The plan that keeps ``widths[u]`` of each unit. ``macs``, ...: kept, dense."""
    return Plan(
        model=model,
        weights_sha256=weights_sha256,
        units=tuple(
            UnitPlan(name=unit.name, width=unit.width, kept=tuple(unit.kept(width).tolist()))
            for unit, width in zip(units, units.check(widths), strict=True)
        ),
        sizes=attribute_sizes(units, widths),
        macs=macs[0],
        dense_macs=macs[1],
        params=params[0],
        dense_params=params[1],
        latency_us=latency_us and latency_us[0],
        dense_latency_us=latency_us and latency_us[1],
        quality=quality or {},
        input_shape=input_shape,
    )
