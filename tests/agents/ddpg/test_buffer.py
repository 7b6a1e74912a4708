from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from amc.agents.ddpg.buffer import EpisodeBuffer, normal_scores
from amc.envs.pruning import PruningEnv
from tests.fakes import fake_problem, rollout


def filled(episodes: int, capacity: int, *, ranked: bool) -> tuple[EpisodeBuffer, list[dict]]:  # type: ignore[type-arg]
    env = PruningEnv(fake_problem((24, 36, 18), (0.1, 0.3, 0.2)))
    buffer = EpisodeBuffer(
        capacity * 3,
        env.observation_space,
        env.action_space,
        generator=np.random.default_rng(0),
        ranked=ranked,
    )
    generator, infos = np.random.default_rng(3), []
    for _ in range(episodes):
        actions = generator.uniform(-1, 1, 3).astype(np.float32)
        _, reward, info = rollout(env, actions)
        executed = info["executed"]
        buffer.add_episode(executed["observations"], executed["actions"], reward)
        infos.append(info)
    return buffer, infos


def test_episodes_are_stored_as_executed_with_the_final_reward() -> None:
    buffer, infos = filled(4, 10, ranked=False)
    assert buffer.size() == 12
    for i, info in enumerate(infos):
        rows = slice(3 * i, 3 * i + 3)
        executed = info["executed"]
        np.testing.assert_array_equal(buffer.observations[rows, 0], executed["observations"][:-1])
        np.testing.assert_array_equal(
            buffer.next_observations[rows, 0], executed["observations"][1:]
        )
        np.testing.assert_array_equal(buffer.actions[rows, 0], executed["actions"])
        np.testing.assert_array_equal(buffer.credit[rows, 0], np.float32(info["plan"]["reward"]))
        np.testing.assert_array_equal(buffer.dones[rows, 0], [0, 0, 1])


def test_the_oldest_episodes_make_room() -> None:
    buffer, infos = filled(7, 3, ranked=False)
    rewards = [np.float32(infos[i]["plan"]["reward"]) for i in (6, 4, 5)]
    np.testing.assert_array_equal(buffer.credit[:, 0], np.repeat(rewards, 3))


def test_ranked_credit() -> None:
    buffer, infos = filled(5, 10, ranked=True)
    order = np.argsort(np.argsort([info["plan"]["reward"] for info in infos]))
    expected = [NormalDist().inv_cdf((rank + 0.5) / 5) for rank in order]
    np.testing.assert_allclose(buffer.credit[:, 0], np.repeat(expected, 3), rtol=1e-5)
    sample = buffer.sample(500).rewards.numpy()
    assert set(np.unique(sample)) == set(np.unique(buffer.credit))


def test_ties_share_their_rank() -> None:
    scores = normal_scores(np.array([-9.0, 2.0, 2.0, -9.0, 5.0, 2.0]))
    quantiles = np.array([1, 3.5, 3.5, 1, 5.5, 3.5]) / 6
    assert scores == pytest.approx([NormalDist().inv_cdf(q) for q in quantiles], abs=1e-6)


def test_samples_do_not_depend_on_the_global_generator() -> None:
    one, _ = filled(4, 10, ranked=False)
    two, _ = filled(4, 10, ranked=False)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    np.testing.assert_array_equal(one.sample(32).actions, two.sample(32).actions)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
