"""What gradients say of channels: the derivative by a gate on each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from amc.errors import ConfigError
from amc.modules.copying import copy_model
from amc.pruning.importance.evidence import Evidence, along
from amc.task import Losses
from amc.tracing.trace import named_tensors


def taylor(evidence: Evidence) -> list[np.ndarray]:
    """First-order change of the training loss without the channel (Molchanov et al. 2019).

    That is |sum of w * dL/dw| over everything that reads the channel: the derivative by a gate on
    it, whatever its unit ties together. Averaged over the batches, so that small ones show what
    cancels out at a minimum of the loss. (For channels that pass a BatchNorm and a ReLU to one
    reader it equals the paper's gate behind the BatchNorm.)
    """
    assert evidence.loss is not None
    model = copy_model(evidence.model).eval()  # the user's loss may do with it what it likes
    totals = [np.zeros(unit.width) for unit in evidence.units]
    batches = 0
    for _, gates in gate_gradients(evidence, model, evidence.loss):
        for total, gate in zip(totals, gates, strict=True):
            total += abs(gate)
        batches += 1
    return [total / batches for total in totals]


def gate_gradients(
    evidence: Evidence,
    model: nn.Module,
    losses: Losses,
    read: Mapping[str, Mapping[int, Tensor]] | None = None,
) -> Iterator[tuple[float, list[np.ndarray]]]:
    """Each batch's loss, and its derivative by a gate on each group of every unit, (width,).

    ``model`` is a copy of the network, which may be changed. ``read`` has, for a tensor and its
    dimensions, 1 and 0 where a gate is open and closed; all are open where it says nothing. Raises
    :class:`ConfigError` where there is no loss, or one without a gradient.
    """
    places, tensors, weights = evidence.places("in"), dict(named_tensors(model)), {}
    readers = {name: tensors[name] for name, _ in places}
    for name, tensor in readers.items():
        original = tensor.detach()
        given = (read or {}).get(name, {})
        gates = {dim: _shaped(gate, dim, original) for dim, gate in given.items()}
        for dim in (d for n, d in places if n == name):
            # By a gate of this dimension, with those of all others as they are.
            weights[name, dim] = _product(original, (g for d, g in gates.items() if d != dim))
        tensor.data = _product(original, gates.values())
        tensor.requires_grad_()
    found = False
    with torch.enable_grad():
        for loss in losses(model):
            if not loss.requires_grad:
                raise ConfigError(
                    "the task's loss has no gradient: compute it from the network that it is given"
                )
            gradients = torch.autograd.grad(loss, list(readers.values()), allow_unused=True)
            by_name = dict(zip(readers, gradients, strict=True))
            slopes = {
                # Of complex weights PyTorch's gradient g means that dL = Re(conj(g) dw).
                place: along((weights[place] * by_name[place[0]].conj()).real, place[1])
                for place in places
                if by_name[place[0]] is not None
            }
            yield loss.item(), evidence.summed("in", slopes)
            found = True
    if not found:
        raise ConfigError("the task's loss yields nothing: yield one for each batch")


def _shaped(gate: Tensor, dim: int, weight: Tensor) -> Tensor:
    """``gate``, ready to multiply ``weight`` along ``dim``."""
    return gate.to(weight).view(-1, *[1] * (weight.dim() - dim - 1))


def _product(weight: Tensor, gates: Iterable[Tensor]) -> Tensor:
    for gate in gates:
        weight = weight * gate
    return weight
