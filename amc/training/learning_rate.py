"""The peak learning rate, tried out: the damage and the data decide, not a habit.

A rate of .05 repairs a CIFAR ResNet in fifteen epochs and ruins a small network on two hundred
images. So a few rates train copies for a few dozen steps, each with the whole course of a short
training (warm-up, fall to zero), and are scored on training images that they were not trained on.
Short trials favour small rates: what a large one gains comes later (Le and Hua 2021; Wu et al.,
Understanding short-horizon bias, 2018). So the largest rate is taken that repairs nearly as much
of the damage as the best one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from amc.errors import EvaluationError

RATES = {
    "sgd": (0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.0005),
    "adamw": (3e-3, 1e-3, 5e-4, 2e-4, 1e-4, 5e-5, 1e-5),
}
"""By optimizer, from the largest; a user's own is tried by those of adamw."""

SHARE = 0.75
"""Of what the best rate repairs: so much the one that is taken has to repair."""

_MOST_STEPS, _LEAST_STEPS, _SHARE_OF_TRAINING = 48, 16, 0.1


@dataclass(frozen=True)
class Trial:
    """What a short training by ``lr`` came to."""

    lr: float
    loss: float
    """Cross-entropy on held-out training images; not finite where it diverged."""


def trial_steps(steps: int) -> int:
    """How long a trial is before a training of ``steps``."""
    return min(max(round(_SHARE_OF_TRAINING * steps), _LEAST_STEPS), _MOST_STEPS)


def choose_rate(
    try_rate: Callable[[float], float], rates: Sequence[float], before: float
) -> tuple[float, list[Trial]]:
    """The rate, and the trials that were made, from the largest rate on.

    Args:
        try_rate: trains a copy by a rate and returns its loss; may raise
            :class:`EvaluationError` where that diverges.
        rates: from the largest.
        before: the loss before training.
    """
    trials: list[Trial] = []
    for lr in rates:
        try:
            loss = try_rate(lr)
        except EvaluationError:
            loss = math.inf
        trials.append(Trial(lr, loss if math.isfinite(loss) else math.inf))
        losses = [trial.loss for trial in trials]
        # Two smaller rates in a row that are worse than a larger one: smaller still are, too.
        if len(losses) > 2 and min(losses[:-2]) < before and max(losses[-3:]) == losses[-1]:
            break
    least = min(trial.loss for trial in trials)
    if least >= before:  # nothing repairs anything in so short a time: the gentlest
        return rates[-1], trials
    enough = before - SHARE * (before - least)
    return next(trial.lr for trial in trials if trial.loss <= enough), trials
