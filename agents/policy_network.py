"""The actors: networks from what is observed at a unit to the action there.

That of the agent is an ensemble which knows how far it can be trusted, because a policy meets
networks unlike all that it has learned from.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from amc.envs.observation import FEATURES, REFERENCE

PRIOR_STD = 0.1
"""How far from the reference plan's an action usually should be, if nothing else is known."""


class Ensemble(nn.Module):
    """Small networks that together say what is to be done otherwise than in the reference plan
    (Silver et al., Residual Policy Learning, 2018); untrained, nothing.

    Each was drawn by itself and learned from draws of its own. Where what they learned says
    something about a unit they agree; where it does not, they disagree (Lakshminarayanan et al.,
    Simple and Scalable Predictive Uncertainty Estimation, 2017). What is done is the mean of a
    normal posterior: their own mean m, of variance v, and before it 0, of variance
    :data:`PRIOR_STD`², give m / (1 + v / PRIOR_STD²).
    """

    def __init__(self, hidden: tuple[int, ...], members: int) -> None:
        super().__init__()
        self.hidden, self.members = hidden, members
        sizes = tuple(itertools.pairwise((len(FEATURES), *hidden, 1)))
        weights = [torch.empty(members, inputs, outputs) for inputs, outputs in sizes]
        biases = [torch.empty(members, 1, outputs) for _, outputs in sizes]
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            bound = 1 / math.sqrt(weight.shape[1])  # as nn.Linear draws them
            weight.uniform_(-bound, bound)
            bias.uniform_(-bound, bound)
        weights[-1].zero_()
        biases[-1].zero_()
        self.weights = nn.ParameterList(weights)
        self.biases = nn.ParameterList(biases)

    def actions(self, observations: Tensor) -> Tensor:
        """Each member's own, not clipped: (members, N) for observations (N, features), the same for
        all, or (members, N, features)."""
        return observations[..., REFERENCE] + self._corrections(observations)

    def forward(self, observations: Tensor) -> Tensor:
        """Actions (N, 1), not clipped, for observations (N, features)."""
        corrections = self._corrections(observations)
        trust = 1 / (1 + corrections.var(dim=0) / PRIOR_STD**2)
        return (observations[:, REFERENCE] + trust * corrections.mean(dim=0))[:, None]

    def _corrections(self, observations: Tensor) -> Tensor:
        hidden, last = observations, len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = hidden @ weight + bias
            if i < last:
                hidden = functional.relu(hidden)
        return hidden[..., 0]


def make_single(hidden: tuple[int, ...]) -> nn.Sequential:
    """One untrained network, as DDPG has it: linear layers, ReLU between them and tanh at the end;
    (N, features) to actions (N, 1)."""
    sizes = (len(FEATURES), *hidden)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 1), nn.Tanh())
