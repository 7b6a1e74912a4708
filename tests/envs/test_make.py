"""The registered environment, built from names alone."""

import warnings

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from amc.slim import slice_model

SETTINGS = {"images": 40, "budget": "flops=0.5 params=0.6"}


def rollout(env, seed):
    actions = np.random.default_rng(seed).uniform(-1, 1, (8, len(env.unwrapped.units), 1))
    seen = []
    for walk in actions.astype(np.float32):
        observation, _ = env.reset(seed=0)
        seen.append(observation)
        for action in walk:
            observation, reward, done, _, info = env.step(action)
            seen += [observation, np.float32(reward)]
        assert done
        assert info["plan"]["kept_macs"] <= 0.5
        assert info["plan"]["kept_params"] <= 0.6
    return seen


def test_two_copies_roll_out_identically_and_please_both_checkers():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (
            gymnasium.make("amc.envs:amc/Pruning-v0", disable_env_checker=True, **SETTINGS)
            for _ in range(2)
        )
        # The weights of a factory without weights are drawn from PyTorch's generator.
        second.unwrapped._evaluate = first.unwrapped._evaluate
        second.unwrapped._observe = first.unwrapped._observe
        for a, b in zip(rollout(first, 1), rollout(second, 1), strict=True):
            assert np.array_equal(a, b)
        check_env(first.unwrapped, skip_render_check=True)
        sb3_check_env(first.unwrapped)


def test_the_reported_costs_are_those_of_the_sliced_network():
    env = gymnasium.make("amc/Pruning-v0", **SETTINGS).unwrapped
    env.reset()
    for _ in env.units:
        _, _, _, _, info = env.step(np.zeros(1, np.float32))
    small = slice_model(env._evaluate._task.model, env.units, info["plan"]["widths"])
    assert sum(p.numel() for p in small.parameters()) == info["plan"]["params"]
