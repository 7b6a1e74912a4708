"""What the training loss says of a channel."""

from __future__ import annotations

import copy

import numpy as np
import torch

from amc.errors import ConfigError
from amc.importance.evidence import Evidence, along
from amc.tracing.trace import named_tensors


def taylor(evidence: Evidence) -> list[np.ndarray]:
    """First-order change of the training loss without the channel (Molchanov et al. 2019).

    That is |sum of w * dL/dw| over everything that reads the channel: the derivative by a gate on
    it, whatever its unit ties together. Averaged over the batches, so that small ones show what
    cancels out at a minimum of the loss. (For channels that pass a BatchNorm and a ReLU to one
    reader it equals the paper's gate behind the BatchNorm.)
    """
    assert evidence.loss is not None
    model = copy.deepcopy(evidence.model).eval()  # the user's loss may do with it what it likes
    tensors = dict(named_tensors(model))
    places = evidence.places("in")
    weights = {name: tensors[name].requires_grad_() for name, _ in places}
    totals = [np.zeros(unit.width) for unit in evidence.units]
    batches = 0
    with torch.enable_grad():
        for loss in evidence.loss(model):
            if not loss.requires_grad:
                raise ConfigError(
                    "the task's loss has no gradient: compute it from the network that it is given"
                )
            gradients = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            found = dict(zip(weights, gradients, strict=True))
            gates = {
                (name, dim): along(weights[name].detach() * found[name], dim)
                for name, dim in places
                if found[name] is not None
            }
            for total, gate in zip(totals, evidence.summed("in", gates), strict=True):
                total += abs(gate)
            batches += 1
    if not batches:
        raise ConfigError("the task's loss yields nothing: yield one for each batch")
    return [total / batches for total in totals]
