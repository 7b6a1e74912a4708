"""The peak learning rate, tried out: the damage and the data decide, not a habit.

A rate of .05 repairs a CIFAR ResNet in fifteen epochs and ruins a small network on two hundred
images. So a few rates train copies for a few dozen steps, each with the whole course of a short
training (warm-up, fall to zero), and are scored on training images that they were not trained on.
Short trials favour small rates: what a large one gains comes later (Le and Hua 2021; Wu et al.,
Understanding short-horizon bias, 2018). So the largest rate is taken that repairs nearly as much
of the damage as the best one: how nearly depends on how long the training is beside a trial.
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

_LONG, _SHORT = (20.0, 0.75), (4.0, 0.95)
"""How many times as long as a trial the training is, and what share of the best repair is enough.

With 15 epochs of CIFAR-10, 110 trials long, ResNet-20 at half the MACs wants .05, which repairs 83%
as much as the best in its trial; with 4 trials, 2 epochs of 4,000 images, .05 is 2.6 points worse
than .02 and .01, which are alike.
"""

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


def enough(times: float) -> float:
    """The share of the best repair that a rate must reach, for a training that is ``times`` as long
    as a trial: more for short ones, whose end is near what the trial shows."""
    (long, low), (short, high) = _LONG, _SHORT
    place = math.log(long / min(max(times, short), long)) / math.log(long / short)
    return low + (high - low) * place


def choose_rate(
    try_rate: Callable[[float], float], rates: Sequence[float], before: float, share: float
) -> tuple[float, list[Trial]]:
    """The rate, and the trials that were made, from the largest rate on.

    Args:
        try_rate: trains a copy by a rate and returns its loss; may raise
            :class:`EvaluationError` where that diverges.
        rates: from the largest.
        before: the loss before training.
        share: of what the best rate repairs; so much the one that is taken has to repair.
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
    most = before - share * (before - least)
    return next(trial.lr for trial in trials if trial.loss <= most), trials
