"""Kept widths to quality: the sliced network, scored once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from amc.pruning.reconstruction import Reconstructor
from amc.pruning.slicing.failures import explained
from amc.pruning.slicing.slice import slice_model
from amc.task import Task
from amc.tracing.units import Units


class PlanEvaluator:
    """Widths to quality: slice the dense network, score the result, never the same widths twice.

    Where ``task.reconstruct`` says so, what is scored is mended first, as the plan that is applied
    will be. Raises :class:`ConfigError` where that lacks calibration inputs, and
    :class:`VerificationError` where a sliced network fails.
    """

    def __init__(self, task: Task, units: Units) -> None:
        # Not the whole task: workers are sent this object, and its training is none of theirs.
        self._model, self._evaluate = task.model, task.evaluate
        self._example = task.example_inputs
        self._units = units
        self._mend = (
            Reconstructor(task.model, units, task.calibration) if task.reconstruct else None
        )
        self._known: dict[tuple[int, ...], Mapping[str, float]] = {}

    def __call__(self, widths: Sequence[int]) -> Mapping[str, float]:
        """Quality of the network that keeps ``widths[u]`` groups of each unit."""
        key = tuple(widths)
        if key not in self._known:
            small = slice_model(self._model, self._units, key)
            with explained(small, self._example):
                if self._mend is not None:
                    self._mend(small, key)
                self._known[key] = self._evaluate(small)
        return self._known[key]
