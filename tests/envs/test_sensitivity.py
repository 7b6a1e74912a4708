from __future__ import annotations

from typing import Any

import numpy as np

from amc.cost.table import CostTable
from amc.envs.sensitivity import Sensitivity, relative, savings
from tests.amc.cost.test_budget import three_units
from tests.fakes import fake_units


def test_each_unit_is_halved_alone() -> None:
    units: Any = fake_units((8, 5, 6))
    units[2].widths = (5, 6)  # nowhere near a half: what it loses counts for more
    asked, told = [], []

    def lost(widths: tuple[int, ...]) -> float:
        asked.append(widths)
        return {(4, 5, 6): 0.3, (8, 2, 6): 0.6, (8, 5, 5): 0.1}[widths]

    known = Sensitivity.measure(units, lost, [1.0, 2.0, 3.0], lambda *done: told.append(done))
    assert asked == [(4, 5, 6), (8, 2, 6), (8, 5, 5)]
    assert told == [(1, 3), (2, 3), (3, 3)]
    expected = np.array([0.3 / (8 / 4 - 1), 0.6 / (5 / 2 - 1), 0.1 / (6 / 5 - 1)])
    np.testing.assert_allclose(known.alone, expected / expected.mean())
    np.testing.assert_allclose(known.gradient, [0.5, 1, 1.5])
    mean, alone, squared = known.estimates
    np.testing.assert_allclose(mean, np.sqrt(known.alone) * known.gradient)
    np.testing.assert_allclose(squared, known.gradient**2)
    assert alone is known.alone
    without = Sensitivity.measure(units, lost)
    assert len(without.estimates) == 1
    assert without.estimates[0] is without.alone


def test_what_loses_nothing_is_a_little_sensitive_and_nothing_at_all_is_equal() -> None:
    np.testing.assert_allclose(relative(np.array([0.0, 2.0])), [2.0**-8, 2])
    np.testing.assert_array_equal(relative(np.zeros(3)), np.ones(3))
    better = Sensitivity.measure(fake_units((4, 4)), lambda widths: float(widths[0] - 3))
    np.testing.assert_allclose(better.alone, [2.0**-8, 2])  # losing is not gaining


def test_savings_are_what_a_unit_frees_by_itself() -> None:
    units = three_units()[0].limited(min_keep=0.5)  # 6, 5 and 7 wide, at least 3, 3 and 4
    cost = CostTable(units, latency=lambda widths: 10 + widths @ np.array([1.0, 4.0, -2.0]))
    saved = np.array([3.0, 8.0, -6.0])
    expected = np.maximum(saved / saved.mean(), 2.0**-8)
    np.testing.assert_allclose(savings(units, cost, "latency_us"), expected)
