"""Networks that several test files look at, each built and searched for units only once."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amc.config import ModelConfig
from amc.cost.table import CostTable
from amc.models.factory import build_model
from amc.pruning.find_units import find_units, read_units
from amc.pruning.importance.score import score
from amc.pruning.slicing.lively import enliven_
from amc.tracing.units import Units

torch.set_num_threads(1)


@dataclass(frozen=True, eq=False)
class Subject:
    """A network through which a signal flows, an input for it, its units and their costs."""

    config: ModelConfig
    model: nn.Module
    inputs: Tensor
    units: Units
    cost: CostTable


ZOO: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "resnet20": ("amc:resnet20", {}, 3, 32),
    "resnet20_b": ("amc:resnet20", {"shortcut": "B"}, 3, 32),
    "vgg11_bn": ("amc:vgg11_bn", {}, 3, 32),
    "mobilenet_v2": ("amc:mobilenet_v2", {}, 3, 32),
    "smallcnn": ("amc:smallcnn", {}, 1, 8),
    "resnet18": ("torchvision:resnet18", {}, 3, 32),
    "mobilenet_v3_small": ("torchvision:mobilenet_v3_small", {}, 3, 64),
    "efficientnet_b0": ("torchvision:efficientnet_b0", {}, 3, 32),
    "googlenet": ("torchvision:googlenet", {"init_weights": False}, 3, 32),
    "densenet121": ("torchvision:densenet121", {}, 3, 32),
    "resnet50": ("torchvision:resnet50", {}, 3, 224),
    "vgg16_bn": ("torchvision:vgg16_bn", {}, 3, 224),
    "imagenet_mobilenet_v2": ("torchvision:mobilenet_v2", {}, 3, 224),
}
"""Specification, arguments, input channels and side of each network, by the name in the tests."""
UNPROVED = ("densenet121",)
"""Whose units are only read off the trace and ranked: proving all 120 takes half a minute."""


@pytest.fixture(scope="session", autouse=True)
def _user_cache(request: pytest.FixtureRequest) -> None:
    """What is measured once a machine is kept from one run of the tests to the next, but not
    where the user keeps it."""
    os.environ.setdefault("AMC_CACHE", str(request.config.cache.mkdir("amc")))


@pytest.fixture(scope="session")
def subject() -> Callable[[str], Subject]:
    """One of :data:`ZOO`; nothing may change it."""
    known: dict[str, Subject] = {}

    def get(name: str) -> Subject:
        if name not in known:
            spec, arguments, channels, side = ZOO[name]
            config = ModelConfig(spec=spec, arguments=arguments)
            with torch.random.fork_rng():
                torch.manual_seed(0)  # initialisation draws from the global generator
                model = build_model(config)
            generator = torch.Generator().manual_seed(1)
            batch = torch.randn(16, channels, side, side, generator=generator)
            enliven_(model, batch, generator)
            inputs = batch[:2].clone()
            if name in UNPROVED:
                units = read_units(model, inputs)
                units = units.ranked(score(model, units, "contribution"))
            else:
                units = find_units(model, inputs)
            known[name] = Subject(config, model, inputs, units, CostTable(units))
        return known[name]

    return get
