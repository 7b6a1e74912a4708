"""Short trainings of copies, by which the learning rate is chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from amc.compute.precision import to_channels_last
from amc.config import FinetuneConfig
from amc.modules.copying import copy_model
from amc.training.learning_rate import RATES, choose_rate, enough, trial_steps
from amc.training.recipe import total_steps
from amc.training.selection import Sample, Score
from amc.training.trainer import Trainer
from amc.vision.data import Chosen, ImageData
from amc.vision.evaluator import recalibrate_

_HELD_OUT = 512
"""Training images, at most, that score the trials."""
_LEAST_HELD_OUT = 20
_RECALIBRATED = 256
"""Training images for BatchNorm in the trials."""

MakeTrainer = Callable[[nn.Module, FinetuneConfig, ImageData], Trainer]


def try_rates(
    model: nn.Module,
    data: ImageData,
    config: FinetuneConfig,
    device: torch.device,
    *,
    make_trainer: MakeTrainer,
    score: Callable[[Sample, nn.Module], Score],
) -> tuple[float, str]:
    """The learning rate for ``config``, and a line that says why.

    ``model`` and PyTorch's random numbers are left as they are.
    """
    images = len(data.train)
    whole = total_steps(config, images)
    steps = trial_steps(whole)
    order = torch.randperm(images, generator=torch.Generator().manual_seed(config.seed))
    count = min(_HELD_OUT, images // 5)
    # Of few images none can be spared: they are scored without augmentation, at least.
    spare = count >= _LEAST_HELD_OUT
    held, rest = (order[:count], order[count:]) if spare else (order, order)
    assert config.batch_size is not None
    few = replace(data, train=Chosen(data.train, rest[: steps * config.batch_size]))
    scored = Sample(few, Chosen(data.train, held), _HELD_OUT, 0, device, config.precision)
    sample = few.train.take(torch.arange(min(len(few.train), _RECALIBRATED))).images
    batches = to_channels_last(data.normalise(sample.to(device))).split(_RECALIBRATED // 2)

    def loss(candidate: nn.Module) -> float:
        # A few dozen steps are too few for the statistics that BatchNorm averages as it trains.
        recalibrate_(candidate, batches)
        return -score(scored, candidate).minus_cross_entropy

    short = {"max_steps": steps, "epochs": steps, "ema": 0.0, "patience": None}

    def try_rate(lr: float) -> float:
        recipe = config.model_copy(update={**short, "lr": lr})
        trainer = make_trainer(copy_model(model), recipe, few)
        torch.manual_seed(config.seed)
        try:
            while not trainer.finished:
                trainer.run_epoch(lambda _: None, lambda: None)
        finally:
            trainer.close()
        return loss(trainer.model)

    before = loss(copy_model(model))
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        rates, share = RATES.get(config.optimizer, RATES["adamw"]), enough(whole / steps)
        lr, trials = choose_rate(try_rate, rates, before, share)
    seen = ", ".join(f"{one.lr:g}: {one.loss:.3f}" for one in trials)
    return lr, (
        f"learning rate {lr:g}: the largest that repairs {share:.0%} as much as the best in "
        f"{steps} steps (loss before {before:.3f}, by rate {seen}); --lr overrides it"
    )
