"""Optimizers and courses of the learning rate: PyTorch's own, by the settings of a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
)

from amc.config import FinetuneConfig
from amc.errors import ConfigError
from amc.models.factory import import_file
from amc.presets import in_file

MakeOptimizer = Callable[[list[dict[str, Any]], float], Optimizer]
"""Called with parameter groups, as PyTorch's optimizers take them, and the learning rate."""

_WARMUP_SHARE = 0.1
"""Of the training, at most: a short one is not all warm-up."""


def make_optimizer(
    models: Iterable[nn.Module], config: FinetuneConfig, make: MakeOptimizer | None = None
) -> Optimizer:
    """The optimizer of ``config``, or by ``make``, for what ``models`` have to train.

    Biases and norms' parameters (all that have one dimension) do not decay. Raises
    :class:`ConfigError` for an unknown name, and where the user's own function fails.
    """
    parameters = [p for model in models for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ConfigError("freeze: nothing is left to train; freeze less")
    assert config.lr is not None
    if make is None and in_file(config.optimizer):
        make = _from_file(config.optimizer)
    if make is not None:
        return _made(make, groups, config)
    if config.optimizer == "sgd":
        return SGD(
            groups,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.momentum > 0,
            # The fused kernel cannot begin with some parameters later than with others.
            fused=config.unfreeze_epoch is None,
        )
    if config.optimizer == "adamw":
        return AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999), fused=True)
    raise ConfigError(
        f"optimizer {config.optimizer!r}: must be sgd, adamw or path/to/file.py:function"
    )


def _from_file(spec: str) -> MakeOptimizer:
    path, _, name = spec.rpartition(":")
    make = getattr(import_file(Path(path).expanduser()), name, None)
    if not callable(make):
        raise ConfigError(f"optimizer {spec}: the file has no function {name!r}")
    function: MakeOptimizer = make
    return function


def _made(make: MakeOptimizer, groups: list[dict[str, Any]], config: FinetuneConfig) -> Optimizer:
    assert config.lr is not None
    try:
        optimizer = make(groups, config.lr)
    except Exception as error:  # whatever it raises, the user sees whose it is
        raise ConfigError(
            f"optimizer {config.optimizer}: called with {len(groups)} parameter groups and lr "
            f"{config.lr:g}, it raised {type(error).__name__}: {error}"
        ) from error
    if not isinstance(optimizer, Optimizer):
        raise ConfigError(
            f"optimizer {config.optimizer}: made {type(optimizer).__name__}; it must make a "
            "torch.optim.Optimizer"
        )
    return optimizer


def make_schedule(
    optimizer: Optimizer, config: FinetuneConfig, steps: int, epoch_steps: int
) -> LRScheduler:
    """The course of the learning rate over ``steps``, one for each update.

    A linear warm-up up to the peak, then a cosine or a line to zero; ``one-cycle``: from a tenth of
    the peak up and down again (Smith and Topin 2018). The last step has a small positive rate, so
    that it is not wasted.
    """
    if config.schedule == "one-cycle":
        assert config.lr is not None
        return OneCycleLR(
            optimizer,
            max_lr=config.lr,
            total_steps=steps + 1,
            div_factor=10,
            anneal_strategy="linear",
            cycle_momentum=False,
        )
    warmup = min(round(config.warmup_epochs * epoch_steps), int(_WARMUP_SHARE * steps))
    rest = max(steps - warmup, 1)
    falling: LRScheduler
    if config.schedule == "cosine":
        falling = CosineAnnealingLR(optimizer, T_max=rest)
    else:
        falling = LinearLR(optimizer, start_factor=1.0, end_factor=1e-9, total_iters=rest)
    if warmup == 0:
        return falling
    rising = LinearLR(optimizer, start_factor=1 / warmup, total_iters=max(warmup - 1, 1))
    return SequentialLR(optimizer, [rising, falling], milestones=[warmup])
