"""What a recipe leaves open, decided for the data; the learning rate is tried out elsewhere."""

from __future__ import annotations

import math

from amc.config import FinetuneConfig

_BATCH = 128
_LEAST_BATCH = 16
_STEPS_AN_EPOCH = 16
"""Small data sets have smaller batches: with 200 images, 15 epochs in batches of 128 would be 30
steps, in batches of 16 they are 195."""
_AVERAGED_SHARE = 0.05
_MOST_DECAY = 0.9999


def completed(config: FinetuneConfig, images: int) -> tuple[FinetuneConfig, list[str]]:
    """``config`` with the batch size and the decay of the average for ``images`` training images,
    and a note on each choice."""
    notes = []
    if config.batch_size is None:
        batch = _BATCH
        while batch > _LEAST_BATCH and images < _STEPS_AN_EPOCH * batch:
            batch //= 2
        if batch != _BATCH:
            notes.append(
                f"batches of {batch} images, so that an epoch of {images} has enough steps "
                "(--batch-size)"
            )
        config = config.model_copy(update={"batch_size": batch})
    steps = total_steps(config, images)
    if config.ema is None:
        horizon = _AVERAGED_SHARE * steps
        decay = min(1 - 1 / horizon, _MOST_DECAY) if horizon > 1 else 0.0
        config = config.model_copy(update={"ema": round(decay, 4)})
    return config, notes


def epoch_steps(config: FinetuneConfig, images: int) -> int:
    """Steps of an epoch: its batches are equal to within one image, so that none is too small for
    BatchNorm."""
    assert config.batch_size is not None
    return math.ceil(images / config.batch_size)


def total_steps(config: FinetuneConfig, images: int) -> int:
    """Steps of the whole training."""
    steps = config.epochs * epoch_steps(config, images)
    return steps if config.max_steps is None else min(steps, config.max_steps)
