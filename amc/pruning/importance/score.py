"""Score the channels of every unit by a criterion's name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from amc.errors import ConfigError
from amc.pruning.importance.evidence import Evidence
from amc.registry import IMPORTANCES
from amc.task import Losses
from amc.tracing.units import Units


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
    entry = IMPORTANCES.entry(criterion)
    evidence = Evidence(model, units, calibration, loss, seed)
    need = entry.traits["needs"]
    if need is not None and not getattr(evidence, need):
        others = ", ".join(x.name for x in IMPORTANCES if x.traits["needs"] is None)
        raise ConfigError(
            f"importance {criterion!r} looks at training images, and there are none: give the task "
            f"a {need} (Task.{need}), or choose a criterion that needs none ({others})"
        )
    scores: list[np.ndarray] = entry.load()(evidence)
    for unit, found in zip(units, scores, strict=True):
        if not np.isfinite(found).all():
            raise ConfigError(
                f"importance {criterion!r} of {unit.name} is not finite; check the weights"
                + (f" and the task's {need}" if need else "")
            )
    return scores
