from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from amc.cost.budget import Budget
from amc.cost.table import CostTable
from amc.envs.observation import FEATURES, HIGH, LOW, REFERENCE, Observer
from amc.envs.sensitivity import Sensitivity
from amc.errors import UnitError
from amc.pruning.find_units import find_units
from tests.amc.cost.test_budget import three_units
from tests.fakes import DENSE_9, FakeCost, fake_units

NAMES = [feature.name for feature in FEATURES]
SIZE_BOUND = ("out_channels", "in_channels")
FREE: Any = SimpleNamespace(fraction=lambda _: 1.0, limits={})
TIGHT: Any = SimpleNamespace(fraction=lambda q: {"macs": 0.4, "params": 1.0}[q], limits={"macs": 1})


def observer_of(
    units: Any,
    cost: Any,
    importance: list[np.ndarray],
    sensitivity: Sensitivity | None = None,
) -> Observer:
    """The reference action on unit i is i / 10."""
    return Observer(units, cost, importance, sensitivity, lambda _: np.arange(len(units)) / 10)


def observer(factor: int = 1, side: int = 16) -> Observer:
    dense = tuple(factor * width for width in DENSE_9)
    cost = FakeCost(dense, area=side * side, inputs=4 * factor)
    # The last layer's ten outputs do not scale: leave them out of the comparison of sizes.
    cost.params = lambda widths: FakeCost.params(cost, widths) - 10 * int(widths[-1])  # type: ignore[method-assign]
    importance = [np.repeat(np.arange(1.0, width + 1), factor) for width in DENSE_9]
    units: Any = fake_units(dense, 0.25, side)
    units[0].layers[0].in_channels = 4 * factor
    return observer_of(units, cost, importance)  # type: ignore[arg-type]


def test_a_twice_as_wide_network_looks_the_same() -> None:
    small, large = observer(), observer(2)
    for step in range(len(DENSE_9) + 1):
        chosen = [width // 2 for width in DENSE_9[:step]]
        a = small(step, chosen, 0.3, TIGHT)
        b = large(step, [2 * width for width in chosen], 0.3, TIGHT)
        same = [i for i, name in enumerate(NAMES) if name not in SIZE_BOUND]
        np.testing.assert_allclose(a[same], b[same], atol=1e-6)
        for name in SIZE_BOUND:  # a doubling is one step of the logarithm
            assert b[NAMES.index(name)] - a[NAMES.index(name)] == pytest.approx(1 / 12, abs=1e-6)


def test_costs_by_hand() -> None:
    dense = (8, 4)
    cost = FakeCost(dense, area=1, inputs=2)  # params: 2 a + a b + 10 b; dense 88
    units = fake_units(dense, 0.25)  # least 2 and 1
    observe = observer_of(units, cost, [np.ones(8), np.ones(4)])  # type: ignore[arg-type]
    row = dict(zip(NAMES, observe(1, [4], -0.5, FREE), strict=True))
    assert row["macs_reduced"] == pytest.approx((88 - (8 + 16 + 40)) / 88)
    assert row["macs_rest"] == pytest.approx((64 - (8 + 4 + 10)) / 88)
    removable = np.array([88 - (4 + 8 + 40), 88 - (16 + 8 + 10)])
    assert row["macs_share"] == pytest.approx(np.log2(removable[1] / removable.mean()) / 8)
    assert row["previous_action"] == -0.5
    assert row["position"] == 1
    assert (row["mass_25"], row["mass_50"], row["mass_75"]) == pytest.approx((0.25, 0.5, 0.75))
    assert row["min_keep"] == 0.25


def test_latency_by_hand_and_the_macs_in_its_place() -> None:
    units = three_units()[0].limited(min_keep=0.5)  # 6, 5 and 7 wide, at least 3, 3 and 4
    per_channel = np.array([1.0, 4.0, 2.0])
    cost = CostTable(units, latency=lambda widths: 10 + widths @ per_channel)  # dense 50
    importance = [np.ones(unit.width) for unit in units]
    budget = Budget({"latency_us": 30.0}, cost)
    row = dict(zip(NAMES, observer_of(units, cost, importance)(1, [4], 0.0, budget), strict=True))
    assert row["latency_reduced"] == pytest.approx(2 / 50)
    assert row["latency_rest"] == pytest.approx((2 * 4 + 3 * 2) / 50)
    assert row["latency_share"] == pytest.approx(np.log2(8 / np.mean([3, 8, 6])) / 8)
    assert row["latency_budget"] == pytest.approx(30 / 50)
    assert row["macs_budget"] == row["params_budget"] == 1

    unmeasured = CostTable(units)
    budget = Budget({"macs": 0.4 * unmeasured.dense("macs")}, unmeasured)
    observe = observer_of(units, unmeasured, importance)
    row = dict(zip(NAMES, observe(1, [4], 0.0, budget), strict=True))
    for what in ("share", "reduced", "rest", "budget"):
        assert row[f"latency_{what}"] == row[f"macs_{what}"] != row[f"params_{what}"]


def test_importance_profile() -> None:
    scores = np.array([1.0, 5.0, 2.0, 2.0])
    observe = observer_of(fake_units((4,)), FakeCost((4,)), [scores])  # type: ignore[arg-type]
    row = dict(zip(NAMES, observe(0, [], 1.0, FREE), strict=True))
    assert (row["mass_25"], row["mass_50"], row["mass_75"]) == pytest.approx((0.5, 0.7, 0.9))


def test_sensitivity_and_the_reference_plan() -> None:
    units, cost = fake_units((8, 4, 4)), FakeCost((8, 4, 4))
    importance = [np.ones(8), np.ones(4), np.ones(4)]
    known = Sensitivity(np.array([4.0, 1.0, 2.0**-8]), np.array([0.5, 1.0, 2.0]))
    for sensitivity, expected in (
        (known, ([0.5, 0, -1], [-0.25, 0, 0.25])),
        (None, ([0] * 3,) * 2),
    ):
        observe = observer_of(units, cost, importance, sensitivity)
        rows = [observe(n, [1] * n, 0.0, FREE) for n in range(4)]
        for name, values in zip(("loss_alone", "loss_gradient"), expected, strict=True):
            found = [row[NAMES.index(name)] for row in rows]
            assert found == pytest.approx([*values, values[-1]]), name
        assert [row[REFERENCE] for row in rows] == pytest.approx([0, 0.1, 0.2, 0.2])


def test_the_reference_plan_is_asked_for_once_a_budget() -> None:
    asked = []

    def reference(budget: Any) -> np.ndarray:
        asked.append(budget)
        return np.zeros(2)

    units: Any = fake_units((8, 4))
    observe = Observer(units, FakeCost((8, 4)), [np.ones(8), np.ones(4)], None, reference)  # type: ignore[arg-type]
    for budget in (FREE, TIGHT, FREE, TIGHT):
        for step in range(3):
            observe(step, [1] * step, 0.0, budget)
    assert asked == [FREE, TIGHT]


def test_extreme_networks_stay_within_bounds() -> None:
    for dense in ((1,), (1, 65536), (7, 1, 2048, 3)):
        units: Any = fake_units(dense, 0.01)
        for unit in units:
            unit.layers = unit.layers * 100
            unit.layers[0].stride = 32
        importance = [np.zeros(width) for width in dense]
        observe = observer_of(units, FakeCost(dense), importance)  # type: ignore[arg-type]
        for step in range(len(dense) + 1):
            row = observe(step, [unit.widths[0] for unit in units[:step]], 1.0, FREE)
            assert row.dtype == np.float32
            assert np.all((row >= LOW) & (row <= HIGH))


def test_a_transformer_from_embeddings_is_observed_within_bounds() -> None:
    class Language(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(50_000, 8)  # more rows than the scale of channels reaches
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, words: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.head(self.layer(self.words(words)))
            return found

    torch.manual_seed(0)
    units = find_units(Language(), torch.arange(5)[None], round_to={"heads": 4}, gentle_ends=True)
    assert [unit.kind for unit in units] == ["stream", "heads", "linear"]
    observe = observer_of(units, CostTable(units), [np.ones(unit.width) for unit in units])
    observations = [observe(n, [1] * n, 0.0, FREE) for n in range(3)]
    assert all(np.all((row >= LOW) & (row <= HIGH)) for row in observations)
    rows = [dict(zip(NAMES, observation, strict=True)) for observation in observations]
    assert [row["linear"] for row in rows] == [0, 1, 1]
    assert [row["stream"] for row in rows] == [1, 0, 0]
    assert [row["min_keep"] for row in rows] == [0.5, 0.5, 1 / 16]
    assert rows[1]["granularity"] == pytest.approx(np.log2(12) / 10)


def test_wrong_importance() -> None:
    units, cost = fake_units((4, 4)), FakeCost((4, 4))
    with pytest.raises(UnitError, match=r"\[4, 3\] scores"):
        observer_of(units, cost, [np.ones(4), np.ones(3)])  # type: ignore[arg-type]
    with pytest.raises(UnitError, match="finite"):
        observer_of(units, cost, [np.ones(4), np.array([1, np.nan, 1, 1])])  # type: ignore[arg-type]
