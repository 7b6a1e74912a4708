"""The observation: AMC's eleven features, corrected, made size-free, and a few of ours.

Every entry is a fraction, a share or a scaled logarithm, so that it means the same on any network
and a policy can be replayed on networks that it never saw. What a policy file must agree on is
:data:`FEATURES` and :data:`FEATURES_VERSION`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from amc.envs.sensitivity import savings
from amc.errors import UnitError
from amc.tracing.units import dense_widths

if TYPE_CHECKING:
    from amc.cost.budget import Budget
    from amc.cost.table import CostTable
    from amc.envs.sensitivity import Sensitivity
    from amc.tracing.units import Unit

FEATURES_VERSION = 4
"""Raised whenever a feature is added, dropped, moved or changes its meaning."""


@dataclass(frozen=True)
class Feature:
    """One entry of the observation, with its bounds."""

    name: str
    low: float
    high: float
    meaning: str


FEATURES: tuple[Feature, ...] = (
    Feature("position", 0, 1, "index of the unit over the last index"),
    Feature("linear", 0, 1, "1 where the lead is a linear layer"),
    Feature("depthwise", 0, 1, "1 where the lead is a depthwise convolution"),
    Feature("stream", 0, 1, "1 where several producers are tied (a residual stream)"),
    Feature("out_channels", 0, 1, "log2 of the lead's output channels, over 12"),
    Feature("in_channels", 0, 1, "log2 of the lead's input channels, over 12"),
    Feature("height", 0, 1, "log2 of the lead's output height, over 9"),
    Feature("width", 0, 1, "log2 of the lead's output width, over 9"),
    Feature("stride", 0, 1, "log2 of the lead's stride, over 4"),
    Feature("kernel", 0, 1, "log2 of the lead's kernel, over 4"),
    Feature(
        "macs_share", -1, 1, "log2 of (the unit's removable MACs over the units' mean), over 8"
    ),
    Feature("params_share", -1, 1, "the same for parameters"),
    Feature("latency_share", -1, 1, "the same for latency"),
    Feature("macs_reduced", 0, 1, "fraction of all MACs removed by the earlier units"),
    Feature("macs_rest", 0, 1, "fraction of all MACs that this and the later units can remove"),
    Feature("params_reduced", 0, 1, "the same for parameters"),
    Feature("params_rest", 0, 1, "the same for parameters"),
    Feature("latency_reduced", 0, 1, "the same for latency"),
    Feature("latency_rest", 0, 1, "the same for latency"),
    Feature("previous_action", -1, 1, "the action on the unit before; 1 (keep all) at the first"),
    Feature("macs_budget", 0, 1, "allowed fraction of the dense MACs; 1 where not limited"),
    Feature("params_budget", 0, 1, "the same for parameters"),
    Feature("latency_budget", 0, 1, "the same for latency"),
    Feature("tied", 0, 1, "log2 of the number of tied producers, over 6"),
    Feature("granularity", 0, 1, "log2 of the channels per group, over 10"),
    Feature("min_keep", 0, 1, "least kept fraction of the unit"),
    Feature("mass_25", 0, 1, "share of the importance held by the top 25% of the channels"),
    Feature("mass_50", 0, 1, "by the top 50%"),
    Feature("mass_75", 0, 1, "by the top 75%"),
    Feature(
        "loss_alone", -1, 1, "log2 of (what half of this unit alone loses over the mean), over 4"
    ),
    Feature("loss_gradient", -1, 1, "the same for the gradient; 0 where they are not known"),
    Feature("reference", -1, 1, "the action on the unit in the reference plan of this budget"),
)
"""The observation vector, in order."""

LOW = np.array([feature.low for feature in FEATURES], dtype=np.float32)
HIGH = np.array([feature.high for feature in FEATURES], dtype=np.float32)
_INDEX = {feature.name: i for i, feature in enumerate(FEATURES)}
REFERENCE = _INDEX["reference"]
"""Where the reference plan's action is in an observation."""


class Observer:
    """Observations of one network: a static row per unit, and what changes in an episode.

    Where latency is not known it is taken to follow the MACs, its budget too, so that a policy that
    was trained without a device has something to go by on one.

    Args:
        units: the units, in forward order.
        cost: closed-form costs.
        importance: per unit, ``(width,)`` non-negative scores of its groups of channels.
        sensitivity: what the units mean to the network; None where it is not known.
        reference: the actions ``(units,)`` of the reference plan of a budget; asked once for each.

    Raises:
        UnitError: the importance does not fit the units.
    """

    def __init__(
        self,
        units: Sequence[Unit],
        cost: CostTable,
        importance: Sequence[np.ndarray],
        sensitivity: Sensitivity | None,
        reference: Callable[[Budget], np.ndarray],
    ) -> None:
        sizes = [len(scores) for scores in importance]
        if tuple(sizes) != dense_widths(units):
            raise UnitError(
                f"importance has {sizes} scores for units of {[*dense_widths(units)]}:"
                " score the same network that the units come from"
            )
        self._cost = cost
        self._dense = dense_widths(units)
        self._least = [unit.widths[0] for unit in units]
        measured: str = "latency_us" if "latency_us" in cost.quantities else "macs"
        self._source: dict[str, str] = {
            "macs": "macs",
            "params": "params",
            "latency": measured,
        }
        self._dense_costs = {source: cost.dense(source) for source in self._source.values()}
        self._static = np.stack(
            [
                _static_row(unit, i / max(1, len(units) - 1), scores)
                for i, (unit, scores) in enumerate(zip(units, importance, strict=True))
            ]
        )
        shares = {name: np.log2(savings(units, cost, name)) / 8 for name in self._dense_costs}
        for quantity, source in self._source.items():
            self._static[:, _INDEX[f"{quantity}_share"]] = shares[source]
        if sensitivity is not None:
            self._static[:, _INDEX["loss_alone"]] = np.log2(sensitivity.alone) / 4
            if sensitivity.gradient is not None:
                self._static[:, _INDEX["loss_gradient"]] = np.log2(sensitivity.gradient) / 4
        self._reference = reference
        self._references: dict[tuple[tuple[str, float], ...], np.ndarray] = {}

    def __call__(
        self, step: int, chosen: Sequence[int], previous_action: float, budget: Budget
    ) -> np.ndarray:
        """The observation before unit ``step``; after the last one, its row once more.

        Args:
            step: index of the unit to decide, up to the number of units.
            chosen: widths of the units before ``step``.
            previous_action: in [-1, 1].
            budget: what the plan will have to meet.

        Returns:
            ``(len(FEATURES),)`` float32, within the declared bounds.
        """
        last = min(step, len(self._dense) - 1)
        row = self._static[last].copy()
        row[REFERENCE] = self._reference_actions(budget)[last]
        open_end = [*chosen, *self._dense[step:]]
        closed_end = [*chosen, *self._least[step:]]
        known: dict[str, tuple[float, float, float]] = {}
        for source, dense in self._dense_costs.items():
            total = self._cost.function(source)
            now, least = total(open_end), total(closed_end)
            known[source] = 1.0 - now / dense, (now - least) / dense, budget.fraction(source)
        for quantity, source in self._source.items():
            for what, value in zip(("reduced", "rest", "budget"), known[source], strict=True):
                row[_INDEX[f"{quantity}_{what}"]] = value
        row[_INDEX["previous_action"]] = previous_action
        observation: np.ndarray = np.clip(row.astype(np.float32), LOW, HIGH)
        return observation

    def _reference_actions(self, budget: Budget) -> np.ndarray:
        limits = tuple(budget.limits.items())
        if limits not in self._references:
            self._references[limits] = self._reference(budget)
        return self._references[limits]


def _static_row(unit: Unit, position: float, scores: np.ndarray) -> np.ndarray:
    lead = unit.layers[0]
    values = {
        "position": position,
        "linear": float(lead.kind == "linear"),
        "depthwise": float(lead.kind == "depthwise"),
        "stream": float(unit.kind == "stream"),
        "out_channels": np.log2(lead.out_channels) / 12,
        "in_channels": np.log2(lead.in_channels) / 12,
        "height": np.log2(lead.height) / 9,
        "width": np.log2(lead.width) / 9,
        "stride": np.log2(lead.stride) / 4,
        "kernel": np.log2(lead.kernel) / 4,
        "tied": np.log2(len(unit.layers)) / 6,
        "granularity": np.log2(unit.granularity) / 10,
        "min_keep": unit.widths[0] / unit.width,
        "mass_25": _top_mass(scores, 0.25),
        "mass_50": _top_mass(scores, 0.5),
        "mass_75": _top_mass(scores, 0.75),
    }
    row = np.zeros(len(FEATURES))
    for name, value in values.items():
        row[_INDEX[name]] = value
    return row


def _top_mass(scores: np.ndarray, fraction: float) -> float:
    """Share of the total held by the largest ``fraction`` of the scores (linear in between)."""
    ranked = np.sort(np.asarray(scores, dtype=np.float64))[::-1]
    total = ranked.sum()
    if not np.isfinite(total) or ranked[-1] < 0:
        raise UnitError("importance scores must be finite and not negative: check the weights")
    if total == 0:
        return fraction
    mass = np.concatenate([[0.0], np.cumsum(ranked)]) / total
    return float(np.interp(fraction * len(ranked), np.arange(len(mass)), mass))
