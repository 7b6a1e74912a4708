"""Channel importance: which groups of a unit to remove first.

A criterion is a function of :class:`Evidence` that gives one (width,) array of scores a unit;
add one in a file of this package, and its name to :data:`CRITERIA` and to
:data:`amc.config.ImportanceName`. A score is summed over everything that is tied into the unit, and
compared with the others of its unit only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from torch import nn

from amc.errors import ConfigError
from amc.importance.chance import random
from amc.importance.evidence import Evidence
from amc.importance.evidence import Losses as Losses
from amc.importance.gradient import taylor
from amc.importance.growth import growth_gains as growth_gains
from amc.importance.images import TrainingImages as TrainingImages
from amc.importance.magnitude import bn_scale, contribution, l1, l2
from amc.importance.median import geometric_median
from amc.importance.signals import activation, entropy
from amc.tracing.units import Units

CRITERIA: dict[str, Callable[[Evidence], list[np.ndarray]]] = {
    "contribution": contribution,
    "l1": l1,
    "l2": l2,
    "bn-scale": bn_scale,
    "geometric-median": geometric_median,
    "activation": activation,
    "entropy": entropy,
    "taylor": taylor,
    "random": random,
}
"""Criteria by name."""

NEEDS = {"activation": "calibration", "entropy": "calibration", "taylor": "loss"}
"""What a criterion asks for beside the weights: a field of :class:`amc.task.Task`."""


def score(
    model: nn.Module,
    units: Units,
    criterion: str,
    *,
    calibration: Iterable[Any] = (),
    loss: Losses | None = None,
    seed: int = 0,
) -> list[np.ndarray]:
    """One (width,) array of scores for each unit, in float64, none negative.

    ``calibration`` and ``loss`` show the network training images (:class:`amc.task.Task` says how);
    ``seed`` is that of ``random``. The model is unchanged afterwards. Raises :class:`ConfigError`
    for an unknown criterion, for one that lacks what it looks at, and where a score is no number.
    """
    if criterion not in CRITERIA:
        raise ConfigError(f"unknown importance {criterion!r}; known are {', '.join(CRITERIA)}")
    evidence = Evidence(model, units, calibration, loss, seed)
    need = NEEDS.get(criterion)
    if need is not None and not getattr(evidence, need):
        others = ", ".join(name for name in CRITERIA if name not in NEEDS)
        raise ConfigError(
            f"importance {criterion!r} looks at training images, and there are none: give the task "
            f"a {need} (Task.{need}), or choose a criterion that needs none ({others})"
        )
    scores = CRITERIA[criterion](evidence)
    for unit, found in zip(units, scores, strict=True):
        if not np.isfinite(found).all():
            raise ConfigError(
                f"importance {criterion!r} of {unit.name} is not finite; check the weights"
                + (f" and the task's {need}" if need else "")
            )
    return scores
