from __future__ import annotations

import numpy as np
import torch

from amc.agents.expert.imitation import ImitationLearner
from amc.envs.observation import FEATURES, REFERENCE


def walk(seed: int, units: int = 8) -> tuple[np.ndarray, np.ndarray]:
    observations = np.random.default_rng(seed).uniform(0, 1, (units, len(FEATURES)))
    actions = np.tanh(observations[:, :1] - observations[:, 5:6])
    return observations.astype(np.float32), actions.astype(np.float32)


def test_learns_what_it_watches_and_forgets_what_is_old() -> None:
    learner = ImitationLearner((32, 32), 4, 1e-2, 0.0, memory=2, seed=0)
    observations, actions = walk(0)
    learner.watch(observations, -actions)
    for seed in (0, 1):
        learner.watch(*walk(seed))
    learner.train(300, 64)
    np.testing.assert_allclose(learner.act(observations), actions[:, 0], atol=0.05)
    assert learner.loss < 1e-3


def test_without_steps_it_stays_as_it_is() -> None:
    learner = ImitationLearner((16,), 4, 1e-3, 0.0, memory=4, seed=0)
    learner.watch(*walk(0))
    before = learner.act(walk(3)[0])
    learner.train(0, 16)
    np.testing.assert_array_equal(learner.act(walk(3)[0]), before)


def test_a_seed_determines_it_and_the_global_generator_is_untouched() -> None:
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    acts = []
    for seed in (1, 1, 2):
        learner = ImitationLearner((16,), 4, 1e-3, 0.0, memory=4, seed=seed)
        learner.watch(*walk(0))
        learner.train(10, 16)
        acts.append(learner.act(walk(3)[0]))
        torch.manual_seed(5)
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(acts[0], acts[1])
    assert not np.array_equal(acts[0], acts[2])


def test_without_a_reason_it_stays_with_the_reference_plan() -> None:
    """What decays is what it adds; what it is shown again and again, it does."""
    observations, actions = walk(0)
    far = np.abs(actions[:, 0] - observations[:, REFERENCE]).mean()
    left = []
    for decay in (0.0, 3.0, 300.0):
        learner = ImitationLearner((32,), 4, 1e-3, decay, memory=1, seed=0)
        np.testing.assert_array_equal(learner.act(observations), observations[:, REFERENCE])
        learner.watch(observations, actions)
        learner.train(400, 64)
        left.append(np.abs(learner.act(observations) - observations[:, REFERENCE]).mean())
    assert left[0] > 0.9 * far
    assert left[0] > left[1] > 0.3 * far
    assert left[2] < 0.1 * far


def test_its_actions_end_where_the_environment_s_do() -> None:
    learner = ImitationLearner((16,), 4, 1e-3, 0.0, memory=1, seed=0)
    observations, _ = walk(0)
    learner.watch(observations, np.full((len(observations), 1), 3.0, np.float32))
    learner.train(400, 64)
    np.testing.assert_array_equal(learner.act(observations), np.ones(len(observations)))


def test_each_member_learns_from_draws_of_its_own() -> None:
    """Members that begin alike would stay alike if they were shown the same."""
    learner = ImitationLearner((16,), 2, 1e-3, 0.0, memory=4, seed=0)
    with torch.no_grad():
        for parameter in learner.actor.parameters():
            parameter[1] = parameter[0]
    learner.watch(*walk(0))
    learner.train(20, 4)
    first, second = learner.actor.actions(torch.from_numpy(walk(0)[0]))
    assert not torch.allclose(first, second, atol=1e-3)
