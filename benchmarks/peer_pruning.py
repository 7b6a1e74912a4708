"""torch-pruning's criteria, each pruning a network to a number of MACs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch_pruning as tp
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from amc.models.architectures import PadShortcut
from amc.task import Task

CRITERIA: dict[str, Callable[[], Any]] = {
    "magnitude L1": lambda: tp.importance.MagnitudeImportance(p=1),
    "magnitude L2": lambda: tp.importance.MagnitudeImportance(p=2),
    "BN scale": tp.importance.BNScaleImportance,
    "LAMP": tp.importance.LAMPImportance,
    "FPGM": tp.importance.FPGMImportance,
    "Taylor": tp.importance.TaylorImportance,
    "random": tp.importance.RandomImportance,
}
"""With their defaults, as its documentation shows them."""
_BISECTIONS = 12


def prune_to(
    model: nn.Module, task: Task, macs: float, criterion: str, whole_network: bool
) -> nn.Module | None:
    """A pruned copy of ``model``, of the largest size up to ``macs`` that a ratio gives.

    The gradients of the criteria that want some are of the same training images as ours. None
    where no ratio gives so few MACs.
    """
    model.requires_grad_(True).zero_grad()
    if criterion == "Taylor":
        assert task.loss is not None
        for loss in task.loss(model):
            loss.backward()
    low, high, best = 0.0, 0.99, None
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        found = _pruned(model, task, criterion, middle, whole_network)
        if found is not None and macs_of(found, task.example_inputs) > macs:
            low = middle
        else:
            high, best = middle, found if found is not None else best
    if best is not None:
        best.zero_grad()
    return best


def macs_of(model: nn.Module, example: Any) -> int:
    """Multiply-accumulates of one forward, by PyTorch's counter."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(example)
    return int(counter.get_total_flops()) // 2


def _pruned(
    dense: nn.Module, task: Task, criterion: str, ratio: float, whole_network: bool
) -> nn.Module | None:
    """A copy of ``dense`` pruned by ``ratio``; None where it no longer runs."""
    model = copy.deepcopy(dense)
    for mine, theirs in zip(model.parameters(), dense.parameters(), strict=True):
        mine.grad = None if theirs.grad is None else theirs.grad.clone()
    torch.manual_seed(0)  # the random criterion draws from the global generator
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = tp.pruner.MagnitudePruner(
            model,
            task.example_inputs,
            importance=CRITERIA[criterion](),
            global_pruning=whole_network,
            pruning_ratio=ratio,
            ignored_layers=list(_ignored(model)),
            in_channel_groups={},  # its defaults are shared by all pruners, and grow
            out_channel_groups={},
            num_heads={},
        )
        pruner.step()
    try:
        with torch.inference_mode():
            model(task.example_inputs)
    except RuntimeError:
        return None
    return model


def _ignored(model: nn.Module) -> Iterator[nn.Module]:
    """The classifier; where shortcuts pad, also all layers that write to the residual stream."""
    padded = any(isinstance(module, PadShortcut) for module in model.modules())
    for name, module in model.named_modules():
        linear = isinstance(module, nn.Linear)
        convolution = isinstance(module, nn.Conv2d)
        stream = name == "conv1" or name.endswith(".conv2")
        if linear or (padded and convolution and stream):
            yield module
