"""The choice of the learning rate, from tables of losses written by hand."""

from __future__ import annotations

import math

import pytest

from amc.errors import EvaluationError
from amc.training.learning_rate import choose_rate, trial_steps

RATES = (0.1, 0.05, 0.02, 0.01, 0.005)


@pytest.mark.parametrize(
    ("losses", "before", "chosen"),
    [
        # The largest that repairs three quarters of what the best one repairs.
        ((1.9, 0.42, 0.3, 0.25, 0.26), 1.0, 0.05),
        ((0.2, 0.21, 0.3, 0.4, 0.5), 1.0, 0.1),
        ((9.0, 3.0, 1.2, 0.9, 0.6), 1.0, 0.005),
        # Nothing repairs: the gentlest.
        ((3.0, 2.0, 1.5, 1.2, 1.1), 1.0, 0.005),
        # What diverges is not taken.
        ((math.inf, math.nan, 0.5, 0.4, 0.4), 1.0, 0.02),
    ],
)
def test_the_largest_rate_that_repairs(
    losses: tuple[float, ...], before: float, chosen: float
) -> None:
    def try_rate(lr: float) -> float:
        loss = losses[RATES.index(lr)]
        if math.isinf(loss):
            raise EvaluationError("diverged")
        return loss

    found, trials = choose_rate(try_rate, RATES, before)
    assert found == chosen
    assert [trial.lr for trial in trials] == list(RATES[: len(trials)])


def test_smaller_rates_than_needed_are_not_tried() -> None:
    tried: list[float] = []

    def try_rate(lr: float) -> float:
        tried.append(lr)
        return {0.1: 0.2, 0.05: 0.25, 0.02: 0.4}[lr]

    assert choose_rate(try_rate, RATES, 1.0)[0] == 0.1
    assert tried == [0.1, 0.05, 0.02]


def test_trials_are_short() -> None:
    assert [trial_steps(steps) for steps in (30, 300, 10_000)] == [16, 30, 48]
