from __future__ import annotations

import math

import pytest

from amc.envs.reward import ErrorLogReward, FloorReward, make_reward
from amc.errors import ConfigError, EvaluationError

QUALITY = {"accuracy": 0.75, "cross_entropy": 0.9, "kl": 0.4}
KEPT = {"macs": 20e6, "params": 1e5}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accuracy", 0.75),
        ("cross_entropy", -0.9),
        ("kl", -0.4),
        ("amc-flops", -0.25 * math.log(20e6)),
        ("amc-params", -0.25 * math.log(1e5)),
    ],
)
def test_values(name: str, value: float) -> None:
    assert make_reward(name)(QUALITY, KEPT) == pytest.approx(value, rel=1e-12)


def test_cheaper_at_equal_accuracy_earns_more() -> None:
    reward = make_reward("amc-flops")
    assert reward(QUALITY, {"macs": 1e6}) > reward(QUALITY, {"macs": 2e6})


def test_the_cheapest_that_holds_the_floor_earns_most_and_any_below_it_least() -> None:
    reward = FloorReward(0.8, "macs", 40e6)
    assert reward.target_loss == pytest.approx(0.2)
    assert reward.loss({"accuracy": 0.7}, {"macs": 20e6}) == pytest.approx(0.3)
    assert reward({"accuracy": 0.8}, {"macs": 10e6}) == 0.75
    assert reward({"accuracy": 0.95}, {"macs": 20e6}) == 0.5
    assert reward({"accuracy": 0.8}, {"macs": 40e6}) == 0  # the dense network
    assert reward({"accuracy": 0.75}, {"macs": 1e6}) == pytest.approx(-0.05)
    assert reward({"accuracy": 0.1}, {"macs": 1e6}) == pytest.approx(-0.7)
    assert FloorReward(0.8, "params", 1e5)({"accuracy": 0.8}, {"params": 4e4}) == pytest.approx(0.6)
    with pytest.raises(EvaluationError, match="accuracy is missing"):
        reward({"kl": 0.1}, {"macs": 1e6})


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="'speed' is unknown; choose from kl, accuracy"):
        make_reward("speed")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_not_finite(value: float) -> None:
    with pytest.raises(EvaluationError, match=r"kl is .*raise min_keep"):
        make_reward("kl")({"kl": value}, KEPT)


def test_missing_signal_and_fraction_for_a_cost() -> None:
    with pytest.raises(EvaluationError, match="accuracy is missing from"):
        make_reward("accuracy")({"kl": 0.1}, KEPT)
    with pytest.raises(EvaluationError, match=r"macs is 0\.5: .*absolute cost"):
        ErrorLogReward("macs")(QUALITY, {"macs": 0.5})
