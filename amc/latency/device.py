"""What a search asks of a device: the latency of plans."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from amc.config import LatencyConfig
from amc.latency.backends import Backend, make_backend
from amc.latency.predictor.fit import fit_latency_model, layer_tables
from amc.latency.predictor.layers import timed_layers
from amc.latency.predictor.model import LatencyModel
from amc.latency.predictor.store import LayerTimes
from amc.tracing.inputs import Inputs
from amc.tracing.units import Units

OnStage = Callable[[str, int, int], None]
"""What is measured, how many are done, and their total."""


class DeviceLatency:
    """One network on one runtime, at the batch and with the threads that ``config`` names.

    Raises :class:`~amc.errors.ConfigError` where the runtime is not available, with what installs
    it.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        config: LatencyConfig,
        on_stage: OnStage | None = None,
        on_note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.backend: Backend = make_backend(config.backend, config.threads, config.device)
        self.model = model
        self.batch = config.batch
        self.inputs = Inputs.of(example_inputs, model).with_batch(config.batch)
        self._on_stage, self._on_note = on_stage or (lambda *_: None), on_note

    def latency_model(self, units: Units, saved: Path | None = None) -> LatencyModel:
        """Predicts plans of ``units``; measured, or read where it was ``saved``.

        Raises :class:`~amc.errors.ModelError` where the runtime cannot run the network, and
        :class:`~amc.errors.RunError` where the file is not sound.
        """
        if saved is not None:
            return LatencyModel.load(saved, timed_layers(self.model, self.inputs, units))
        return fit_latency_model(
            self.model, self.inputs, units, self.backend, self._times, on_stage=self._on_stage
        )

    def layers_alone(self, units: Units) -> LatencyModel:
        """The mere sum of what the layers take: enough to compare grids of widths."""
        return LatencyModel(
            *layer_tables(self.model, self.inputs, units, self._times, self._on_stage)
        )

    @cached_property
    def _times(self) -> LayerTimes:
        return LayerTimes(self.backend, on_note=self._on_note)
