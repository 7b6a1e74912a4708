from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from amc.agents.policy_network import PRIOR_STD, Ensemble
from amc.envs.observation import FEATURES, REFERENCE
from tests.fakes import drawn


def observe(count: int) -> torch.Tensor:
    values = np.random.default_rng(0).uniform(-1, 1, (count, len(FEATURES)))
    return torch.from_numpy(values.astype(np.float32))


def make(members: int = 3, std: float = 0.3) -> Ensemble:
    return drawn(Ensemble((16, 8), members), std)


@torch.no_grad()
def test_untrained_it_is_the_reference_plan_but_no_two_members_are_alike() -> None:
    actor, observations = Ensemble((16, 8), 3), observe(9)
    torch.testing.assert_close(
        actor(observations)[:, 0], observations[:, REFERENCE], rtol=0, atol=0
    )
    first = actor.weights[0]
    assert all((first[i] != first[j]).all() for i, j in ((0, 1), (0, 2), (1, 2)))
    # As nn.Linear is drawn: uniform up to the root of the inputs' number.
    assert 0.9 < first.abs().max() * len(FEATURES) ** 0.5 <= 1


@torch.no_grad()
def test_a_member_is_a_network_of_its_own() -> None:
    """The oracle is linear layers, one member at a time, each with its own observations."""
    actor, observations = make(), torch.stack([observe(7).roll(i, 0) for i in range(3)])
    found = actor.actions(observations)
    for member in range(3):
        hidden = observations[member]
        for i, (weight, bias) in enumerate(zip(actor.weights, actor.biases, strict=True)):
            hidden = functional.linear(hidden, weight[member].T, bias[member, 0])
            hidden = hidden.clamp(min=0) if i < 2 else hidden
        expected = hidden[:, 0] + observations[member][:, REFERENCE]
        torch.testing.assert_close(found[member], expected)
    same = actor.actions(observations[0])
    assert same.shape == (3, 7)
    torch.testing.assert_close(same[0], found[0])


@torch.no_grad()
@pytest.mark.parametrize("spread", [0.0, 0.05, 0.1, 1.0])
def test_it_does_what_its_members_agree_on(spread: float) -> None:
    """By hand: members that correct by .4 - s, .4 and .4 + s have the mean .4 and the variance s²;
    a prior of the same variance leaves half of the mean."""
    actor, observations = make(), observe(5)
    actor.weights[-1].zero_()
    actor.biases[-1][:, 0, 0] = torch.tensor([0.4 - spread, 0.4, 0.4 + spread])
    expected = observations[:, REFERENCE] + 0.4 * PRIOR_STD**2 / (PRIOR_STD**2 + spread**2)
    torch.testing.assert_close(actor(observations)[:, 0], expected)
