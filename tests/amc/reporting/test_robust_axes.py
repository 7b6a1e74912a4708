"""Which values a picture leaves out."""

import numpy as np
import pytest

from amc.reporting.robust_axes import robust_range

BULK = list(np.linspace(0.0, 1.0, 41))  # quartiles at 0.25 and 0.75: far out beyond -1.25 and 2.25


@pytest.mark.parametrize(
    ("values", "always", "expected"),
    [
        (BULK, [], (0, 1)),
        ([*BULK, 50.0], [], (0, 1)),
        ([*BULK, -50.0], [], (0, 1)),
        ([*BULK, -50.0, 50.0], [], (0, 1)),
        ([*BULK, 50.0], [50.0], (0, 50)),  # the best
        ([*BULK, 50.0], [3.0], (0, 3)),
        ([*BULK, 1.9], [], (0, 1.9)),  # takes less than half of the axis
        ([*BULK, 2.2], [], (0, 2.2)),  # is not far out
        ([*BULK, np.nan, np.inf, -np.inf], [], (0, 1)),
        ([1.0] * 40 + [0.9] * 5 + [-50.0], [], (0.9, 1)),  # most are equal
        ([1.0] * 40 + [-50.0], [], (-50, 1)),  # all but one are: there is nothing to flatten
        ([0.5], [], (0.5, 0.5)),
        ([], [], (0, 1)),
    ],
)
def test_values_far_out_are_left_out(values, always, expected):
    assert robust_range(values, always) == pytest.approx(expected)
