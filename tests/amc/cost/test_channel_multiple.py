"""The multiple of a device whose clock is a formula."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from amc.cost.channel_multiple import best_multiple
from amc.pruning.find_units import read_units


def chain(*channels: int) -> nn.Module:
    return nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(channels)))


def blocked(multiple: int):
    """Multiply-accumulates, which take half as long again unless all widths are whole blocks."""

    def latency(widths: np.ndarray) -> np.ndarray:
        widths = np.asarray(widths)
        whole = (widths % multiple == 0).all(axis=-1)
        macs: np.ndarray = (widths[..., 1:] * widths[..., :-1]).sum(axis=-1)
        return macs * np.where(whole, 1.0, 1.5)

    return latency


@pytest.mark.parametrize("multiple", [1, 4, 8, 16])
def test_a_device_that_works_in_blocks(multiple):
    units = read_units(chain(3, *[128] * 9, 5), torch.zeros(1, 3))
    assert best_multiple(units, blocked(multiple)) == multiple


def test_one_whose_time_does_not_fall_between_blocks_needs_no_grid():
    # Plans grow to the end of a block by themselves: nothing is lost on a grid of 1.
    def stairs(widths):
        return (8 * np.ceil(np.asarray(widths) / 8)).sum(axis=-1)

    units = read_units(chain(3, 64, 96, 80, 64, 5), torch.zeros(1, 3))
    assert best_multiple(units, stairs) == 1


def test_a_grid_on_which_no_plan_is_fast_enough_is_none():
    # Of 16 channels a grid of 16 leaves one width, and the network as slow as it is.
    units = read_units(chain(3, 16, 16, 16, 5), torch.zeros(1, 3))
    assert best_multiple(units, blocked(16)) < 16
    wide = read_units(chain(3, *[128] * 9, 5), torch.zeros(1, 3))
    assert best_multiple(wide, blocked(8), (0.001, 1.0)) < 8  # though it would be best on average
    nothing = units.limited(exclude=["*"])
    assert best_multiple(nothing, blocked(16)) == 1
