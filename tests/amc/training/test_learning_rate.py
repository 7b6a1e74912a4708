"""The choice of the learning rate, from tables of losses written by hand."""

from __future__ import annotations

import math

import pytest

from amc.errors import EvaluationError
from amc.training.learning_rate import choose_rate, enough, trial_steps

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

    found, trials = choose_rate(try_rate, RATES, before, 0.75)
    assert found == chosen
    assert [trial.lr for trial in trials] == list(RATES[: len(trials)])


def test_smaller_rates_than_needed_are_not_tried() -> None:
    tried: list[float] = []

    def try_rate(lr: float) -> float:
        tried.append(lr)
        return {0.1: 0.2, 0.05: 0.25, 0.02: 0.4}[lr]

    assert choose_rate(try_rate, RATES, 1.0, 0.75)[0] == 0.1
    assert tried == [0.1, 0.05, 0.02]


def test_trials_are_short() -> None:
    assert [trial_steps(steps) for steps in (30, 300, 10_000)] == [16, 30, 48]


def test_a_short_training_asks_more_of_a_rate() -> None:
    found = [enough(times) for times in (1, 4, math.sqrt(80), 20, 110)]
    assert found == pytest.approx([0.95, 0.95, 0.85, 0.75, 0.75])
    # Between two rates of which the larger one repairs less, the length decides.
    losses = {0.1: 1.2, 0.05: 0.40, 0.02: 0.25, 0.01: 0.26, 0.005: 0.3}
    chosen = [choose_rate(losses.__getitem__, RATES, 1.0, enough(t))[0] for t in (4, 110)]
    assert chosen == [0.02, 0.05]
