"""What a search asks of a device: the latency of plans."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from amc.config import LatencyConfig
from amc.errors import ConfigError
from amc.latency.backends import Backend, make_backend
from amc.latency.predictor.fit import fit_latency_model, layer_tables
from amc.latency.predictor.layers import timed_layers
from amc.latency.predictor.model import LatencyModel
from amc.latency.predictor.store import LayerTimes
from amc.tracing.trace import as_inputs
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
        self.inputs = with_batch(example_inputs, config.batch)
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


def with_batch(example_inputs: Any, batch: int) -> tuple[Any, ...]:
    """``example_inputs`` with so many examples: the first dimension of every tensor.

    Raises :class:`ConfigError` for an input without dimensions.
    """

    def resized(x: Tensor) -> Tensor:
        if not x.dim():
            raise ConfigError("a batch needs inputs whose first dimension is the batch")
        return x[torch.arange(batch) % len(x)]

    changed: tuple[Any, ...] = tree_map_only(Tensor, resized, as_inputs(example_inputs))
    return changed
