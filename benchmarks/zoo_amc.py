"""The zoo's measurements of amc on one network, in a process of its own (see ``zoo_child.py``).

The clock and the memory are read around one dense forward (a first one has warmed up the kernels),
around ``read_units`` (the traced forward alone) and around ``find_units`` (tracing, ranking, and
the proof of the units). Then come random plans: whatever a search could ask for; and the proof of
each unit by itself.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Any

import numpy as np
import torch
from torch import nn
from zoo_child import SEED, Emit, count_macs, difference, first_line, measured, prepare, run
from zoo_networks import Network

from amc.cost.table import CostTable, prunable_fraction
from amc.errors import AMCError, VerificationError
from amc.pruning.find_units import find_units, read_units
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import TOLERANCE, verify
from amc.tracing.units import Units

KEEPS = (0.9, 0.5, 0.2)
ALONE_SECONDS = 6
"""CPU time for proving units one by one, which ``find_units`` spares itself."""


def measure(network: Network, emit: Emit, seconds: int) -> None:
    """Everything that ``zoo.py`` reports of amc; what fails ends the measurement, with its name."""
    try:
        model, inputs, others = prepare(network, seconds)
    except Exception as error:
        emit(outcome="does not build", error=first_line(error))
        raise
    try:
        with torch.inference_mode():
            signal = difference(model(*others), model(*inputs))
            with measured(emit, "forward"):
                model(*inputs)
        emit(signal=signal)
        with measured(emit, "read"):
            units = read_units(model, inputs)
        with measured(emit, "find"):
            units = find_units(model, inputs)
        emit(**_facts(units))
        plans: list[dict[str, Any]] = []
        for keep in KEEPS:
            plans.append(_random_plan(model, inputs, units, keep))
            emit(plans=plans)
        verified = all(plan["verified"] for plan in plans)
        alone = _each_alone(model, inputs, units)
        emit(alone=alone)
        emit(outcome="verified" if verified and not alone["failures"] else "differs")
    except AMCError as error:  # said on purpose: nothing to prune, a forward that fails
        emit(outcome="refused", error=first_line(error))
    except Exception as error:
        emit(outcome="error", error=first_line(error))
        raise


def _facts(units: Units) -> dict[str, Any]:
    """What can be pruned, what is frozen and why, and what half of everything would keep."""
    cost = CostTable(units)
    frozen: Counter[str] = Counter()
    for entry in units.frozen:
        frozen[entry.reason] += entry.channels
    half = [min(unit.widths, key=lambda width: abs(width - unit.width / 2)) for unit in units]
    return {
        "units": len(units),
        "channels": sum(unit.width * unit.granularity for unit in units),
        "frozen": dict(frozen.most_common()),
        "macs": cost.dense("macs"),
        "params": cost.dense("params"),
        "prunable_macs_share": prunable_fraction(units),
        "half_macs_share": cost.macs(half) / max(1, cost.dense("macs")),
    }


def _each_alone(model: nn.Module, inputs: tuple[Any, ...], units: Units) -> dict[str, Any]:
    """Each unit at half its width, all others whole; in large networks as many as time allows.

    Units are taken in random order, so that those not reached are a fair sample.
    """
    start, failures, tried = time.process_time(), [], 0
    for number in np.random.default_rng(SEED).permutation(len(units)):
        if time.process_time() - start > ALONE_SECONDS:
            break
        widths = list(units.dense_widths)
        widths[number] = units[number].width // 2
        try:
            verify(model, slice_model(model, units, widths), units, widths, inputs)
        except VerificationError as error:
            failures.append(f"{units[number].name}: {first_line(error)}")
        tried += 1
    return {"tried": tried, "failures": failures}


def _random_plan(
    model: nn.Module, inputs: tuple[Any, ...], units: Units, keep: float
) -> dict[str, Any]:
    """One plan around ``keep``: groups in random order, widths that differ from unit to unit.

    Each unit's own keep is drawn evenly within half the distance from ``keep`` to 0 or 1.
    """
    rng = np.random.default_rng([SEED, round(100 * keep)])
    units = units.ranked([rng.random(unit.width) for unit in units])
    spread = min(keep, 1 - keep) / 2
    wishes = rng.uniform(keep - spread, keep + spread, len(units))
    widths = [
        min(unit.widths, key=lambda width: abs(width - wish * unit.width))
        for unit, wish in zip(units, wishes, strict=True)
    ]
    cost = CostTable(units)
    start = time.process_time()
    small = slice_model(model, units, widths)
    plan: dict[str, Any] = {"keep": keep, "slice_cpu_seconds": time.process_time() - start}
    try:
        plan["error"] = verify(model, small, units, widths, inputs, tolerance=math.inf)
        plan["verified"] = plan["error"] <= TOLERANCE
        plan["macs_off"] = cost.macs(widths) - count_macs(small, inputs)
    except VerificationError as error:
        plan |= {"verified": False, "failure": first_line(error)}
    plan["params_off"] = cost.params(widths) - sum(p.numel() for p in small.parameters())
    plan["macs_share"] = cost.macs(widths) / max(1, cost.dense("macs"))
    return plan


if __name__ == "__main__":
    run(measure)
