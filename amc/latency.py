"""Measured latency: networks side by side, in one process, in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from amc.trace import as_inputs, eval_mode


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward."""

    median_ms: float
    spread_ms: float
    """Interquartile range."""


def measure(
    models: Sequence[nn.Module], example_inputs: Any, *, repeats: int = 50, warmup: int = 5
) -> list[Latency]:
    """Latency of each model in eager PyTorch, float32, on the device of its weights.

    The models take turns, so that a machine that slows down slows all of them; quote ratios rather
    than the times themselves. ``example_inputs`` decides the batch size.
    """
    inputs = as_inputs(example_inputs)
    seconds = np.zeros((len(models), warmup + repeats))
    for turn in range(warmup + repeats):
        for number, model in enumerate(models):
            with torch.inference_mode(), eval_mode(model):
                _synchronise()
                start = time.perf_counter()
                model(*inputs)
                _synchronise()
                seconds[number, turn] = time.perf_counter() - start
    quartiles = np.percentile(seconds[:, warmup:] * 1e3, (25, 50, 75), axis=1)
    return [Latency(float(q[1]), float(q[2] - q[0])) for q in quartiles.T]


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
