"""Narrower ResNets of as many MACs as a pruned one: what pruning has to be better than."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from itertools import product
from math import ceil, floor

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from amc.config import ModelConfig
from amc.errors import ConfigError
from amc.models.factory import build_model

WIDTHS = (16, 32, 64)
_MULTIPLIERS = tuple(step / 64 for step in range(8, 65))


@dataclass(frozen=True)
class Narrow:
    """A network, the channels of its stages, and its multiply-accumulates."""

    model: ModelConfig
    widths: tuple[int, ...]
    macs: int


def narrower(model: ModelConfig, example: Tensor, most_macs: float) -> Narrow:
    """The CIFAR ResNet ``model`` with all stages narrowed alike, of the most MACs up to
    ``most_macs``; without weights.

    Every stage has the width that a common multiplier says, rounded up or down. ``example`` is one
    image, (1, C, H, W). Raises :class:`ConfigError` where even the narrowest has more.
    """
    by_floor = bisect.bisect_right(
        _MULTIPLIERS,
        most_macs,
        key=lambda multiplier: _of(model, _rounded(multiplier)[0], example).macs,
    )
    near = _MULTIPLIERS[max(by_floor - 1, 0) : by_floor + 1]
    tried = {widths for multiplier in near for widths in _rounded(multiplier)}
    found = [_of(model, widths, example) for widths in tried]
    fitting = [one for one in found if one.macs <= most_macs]
    if not fitting:
        raise ConfigError(f"{model.spec}: no width that was tried has {most_macs:,.0f} MACs")
    return max(fitting, key=lambda one: (one.macs, one.widths))


def _rounded(multiplier: float) -> list[tuple[int, ...]]:
    """Stage widths, each rounded down or up; all down first."""
    exact = [multiplier * width for width in WIDTHS]
    return list(product(*((floor(x), ceil(x)) for x in exact)))


def _of(model: ModelConfig, widths: tuple[int, ...], example: Tensor) -> Narrow:
    arguments = {**model.arguments, "widths": widths}
    config = model.model_copy(update={"arguments": arguments, "weights": None})
    with torch.device("meta"):
        network = build_model(config)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(example.to("meta"))
    return Narrow(config, widths, counter.get_total_flops() // 2)
