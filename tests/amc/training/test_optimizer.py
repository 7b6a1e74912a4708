"""Optimizers and schedules: by hand, and users' own."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from amc.config import FinetuneConfig
from amc.errors import ConfigError
from amc.models.architectures import NETWORKS
from amc.training.optimizer import make_optimizer, make_schedule


def rates(steps: int = 100, epoch_steps: int = 10, **settings: object) -> list[float]:
    """The learning rate of each step."""
    config = FinetuneConfig.parse({"lr": 0.5, "epochs": 10, **settings})
    optimizer = make_optimizer([nn.Linear(2, 2)], config)
    schedule = make_schedule(optimizer, config, steps, epoch_steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("schedule", "fall"),
    [("cosine", lambda x: 0.5 * (1 + math.cos(math.pi * x))), ("linear", lambda x: 1 - x)],
)
def test_warm_up_then_a_fall_to_zero(schedule: str, fall: object) -> None:
    found = rates(schedule=schedule)
    assert callable(fall)
    expected = [0.05 * (step + 1) for step in range(10)]
    expected += [0.5 * fall(step / 90) for step in range(90)]
    assert found == pytest.approx(expected, rel=1e-6)
    assert found[-1] > 0


def test_a_short_training_is_not_all_warm_up() -> None:
    assert rates(steps=8, epoch_steps=8)[0] == 0.5
    assert rates(steps=20, epoch_steps=10)[:3] == pytest.approx([0.25, 0.5, 0.5])


def test_one_cycle_goes_up_from_a_tenth_and_down_again() -> None:
    found = rates(schedule="one-cycle")
    top = found.index(max(found))
    assert found[0] == pytest.approx(0.05)
    assert found[top] == pytest.approx(0.5, rel=0.02)
    assert 25 <= top <= 35
    assert all(a < b for a, b in pairwise(found[: top + 1]))
    assert all(a > b for a, b in pairwise(found[top:]))
    assert found[-1] > 0


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_only_matrices_decay(kind: str) -> None:
    model = NETWORKS["smallcnn"]()
    config = FinetuneConfig(lr=0.1, weight_decay=0.01, optimizer=kind)
    decayed, free = make_optimizer([model], config).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0)
    assert {names[id(p)].rsplit(".")[-2][:2] for p in free["params"]} == {"bn", "li"}
    assert all(names[id(p)].endswith("weight") for p in decayed["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    model.conv1.weight.requires_grad_(False)
    groups = make_optimizer([model], config).param_groups
    assert all(p is not model.conv1.weight for group in groups for p in group["params"])


def test_a_users_own_optimizer(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\n"
        "def make(groups, lr):\n    return torch.optim.RMSprop(groups, lr=lr)\n"
        "def wrong(groups, lr):\n    return 3\n"
        "def broken(groups, lr):\n    raise KeyError('no')\n"
    )
    model = nn.Linear(2, 2)
    made = make_optimizer([model], FinetuneConfig(lr=0.25, optimizer=f"{file}:make"))
    assert isinstance(made, torch.optim.RMSprop)
    assert made.param_groups[0]["lr"] == 0.25
    own = make_optimizer(
        [model], FinetuneConfig(lr=0.25), lambda groups, lr: torch.optim.Adagrad(groups, lr=lr)
    )
    assert isinstance(own, torch.optim.Adagrad)
    for name, message in (
        ("wrong", "made int"),
        ("broken", "raised KeyError"),
        ("missing", "no function 'missing'"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_optimizer([model], FinetuneConfig(lr=0.1, optimizer=f"{file}:{name}"))
    with pytest.raises(ConfigError, match="must be sgd, adamw"):
        make_optimizer([model], FinetuneConfig(lr=0.1, optimizer="sdg"))
