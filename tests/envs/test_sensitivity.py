from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from amc.budget import resolve
from amc.cost import CostTable
from amc.envs.sensitivity import Reference, Sensitivity, relative, savings
from tests.amc.test_budget import three_units
from tests.fakes import DENSE_9, FakeCost, fake_env, fake_units


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
    np.testing.assert_allclose(known.squared, np.sqrt(known.alone) * known.gradient)
    without = Sensitivity.measure(units, lost)
    np.testing.assert_array_equal(without.squared, without.alone)


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


def test_the_reference_loses_least_of_what_it_assumes() -> None:
    """Where costs are proportional to keeps it is the best plan there is: brute force agrees."""
    units: Any = fake_units((20, 20), least=0.05)
    sensitivity = Sensitivity(np.array([0.4, 1.6]))

    class Linear(FakeCost):
        quantities = ("macs",)

        def totals(self, quantity: str, widths: Any) -> Any:
            return np.asarray(widths) @ np.array([3, 1]) * (quantity == "macs")

        def macs(self, widths: Any) -> int:
            return int(self.totals("macs", widths))

    cost: Any = Linear((20, 20))
    budget = resolve({"macs": 0.4}, units, cost)
    wishes = Reference(units, cost, sensitivity).wishes(budget)  # type: ignore[arg-type]
    plans = [(a, b) for a in range(1, 21) for b in range(1, 21) if 3 * a + b <= 0.4 * 80]
    lost = [0.4 * (20 / a - 1) + 1.6 * (20 / b - 1) for a, b in plans]
    best = np.array(plans[int(np.argmin(lost))])
    np.testing.assert_allclose(wishes / wishes[1], best / best[1], rtol=0.1)
    assert wishes.max() == 1


@pytest.mark.parametrize("limits", [{"macs": 0.5}, {"params": 0.5}, {}])
def test_a_plan_on_the_budget_better_than_uniform_where_it_is_known_what_matters(
    limits: dict[str, float],
) -> None:
    quality = fake_env().evaluate
    units = fake_units(DENSE_9)
    known = Sensitivity.measure(units, lambda widths: quality(widths)["kl"])
    env = fake_env(limits=limits, evaluate=quality, known=known)
    reference, uniform = env.score(env.reference()), env.score(env.uniform())
    if not limits:
        assert reference.widths == uniform.widths == DENSE_9
        return
    (name, limit) = next(iter(limits.items()))
    assert 0.98 * limit < getattr(reference, f"kept_{name}") <= limit
    assert reference.quality["kl"] < 0.9 * uniform.quality["kl"]
    ignorant = fake_env(limits=limits, evaluate=quality)
    assert ignorant.reference().widths == uniform.widths
