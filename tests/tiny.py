"""Tasks of milliseconds; the first ones are built by functions that other processes can be sent."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from amc.errors import ConfigError, EvaluationError
from amc.task import Task

INPUTS = (1, 3, 4, 4)


def tiny_network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 12, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(12 * 16, 5),
        )


def tiny_task(trap: Path | None = None) -> Task:
    """``trap`` is a file: the process that takes it away dies of it, during an evaluation."""
    model = tiny_network()
    return Task(model, torch.zeros(INPUTS), partial(_difference, model, trap))


def failing_task() -> Task:
    return Task(tiny_network(), torch.zeros(INPUTS), _fail)


def no_task() -> Task:
    raise ConfigError("no such network")


def distance_task(*layers: nn.Module, before: Callable[[], None] = lambda: None) -> Task:
    """Layers for images (2, 6, 6), of seeded weights; the quality is the distance of the outputs
    from the dense network's. ``before`` is called at every evaluation."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(*layers).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    images = torch.randn(32, 2, 6, 6, generator=generator)
    dense = model(images).detach()

    def evaluate(candidate: nn.Module) -> dict[str, float]:
        before()
        distance = float((candidate(images).detach() - dense).square().mean())
        return {"kl": distance, "accuracy": 1 / (1 + distance)}

    return Task(model=model, example_inputs=images[:1], evaluate=evaluate)


def _difference(dense: nn.Module, trap: Path | None, small: nn.Module) -> dict[str, float]:
    if trap is not None:
        with contextlib.suppress(FileNotFoundError):
            trap.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
    inputs = torch.randn(8, *INPUTS[1:], generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return {"kl": float((dense(inputs) - small(inputs)).square().mean())}


def _fail(_: nn.Module) -> dict[str, float]:
    raise EvaluationError("no light")
