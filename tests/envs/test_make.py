"""The registered environment, built from names alone."""

import warnings
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as sb3_check_env
from torch import nn

from amc.config import SearchConfig
from amc.envs.make import make_problem
from amc.envs.observation import FEATURES
from amc.envs.pruning import PruningEnv
from amc.errors import ConfigError
from amc.pruning.slicing.slice import slice_model
from amc.task import Task

SETTINGS = {"images": 40, "budget": "flops=0.5 params=0.6"}


def rollout(env, seed):
    actions = np.random.default_rng(seed).uniform(-1, 1, (8, len(env.unwrapped.problem.units), 1))
    seen = []
    for walk in actions.astype(np.float32):
        observation, _ = env.reset(seed=0)
        seen.append(observation)
        for action in walk:
            observation, reward, done, _, info = env.step(action)
            seen += [observation, np.float32(reward)]
        assert done
        assert info["plan"]["kept"]["macs"] <= 0.5
        assert info["plan"]["kept"]["params"] <= 0.6
    return seen


def test_two_copies_roll_out_identically_and_please_both_checkers():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (
            gymnasium.make("amc.envs:amc/Pruning-v0", disable_env_checker=True, **SETTINGS)
            for _ in range(2)
        )
        # The weights of a factory without weights are drawn from PyTorch's generator.
        second.unwrapped.problem.evaluate = first.unwrapped.problem.evaluate
        second.unwrapped.problem._observe = first.unwrapped.problem._observe
        for a, b in zip(rollout(first, 1), rollout(second, 1), strict=True):
            assert np.array_equal(a, b)
        check_env(first.unwrapped, skip_render_check=True)
        sb3_check_env(first.unwrapped)


def test_the_reported_costs_are_those_of_the_sliced_network():
    env = gymnasium.make("amc/Pruning-v0", **SETTINGS).unwrapped
    problem = env.problem
    env.reset()
    for _ in problem.units:
        _, _, _, _, info = env.step(np.zeros(1, np.float32))
    small = slice_model(problem.evaluate._model, problem.units, info["plan"]["widths"])
    assert sum(p.numel() for p in small.parameters()) == info["plan"]["costs"]["params"]


@pytest.mark.parametrize("constraint", ["projection", "sequential"])
def test_every_episode_observes_the_bounds_and_the_budget(constraint):
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
    model = nn.Sequential(nn.Linear(5, 16), encoder, nn.Linear(16, 20), nn.Linear(20, 3))
    task = Task(model, torch.randn(1, 7, 5), lambda _: {"kl": 0.0})
    config = SearchConfig.parse(
        {
            "budget": {"macs": 0.5},
            "constraint": constraint,
            "round_to": {"all": 3, "heads": 1, "stream": 4},
            "min_width": 2,
            "gentle_ends": True,
        }
    )
    problem = make_problem(task, config)
    allowed = [
        {8, 12, 16},  # the stream: half of the stem, by 4
        {2, 3, 4},  # heads: at least two
        {3, 6, 9, 12, 15, 18, 21, 24},  # the MLP: at least a tenth, by 3
        {12, 15, 18, 20},  # what the last layer reads: at least half, by 3
    ]
    assert [{*unit.widths} for unit in problem.units] == allowed
    env, taken = PruningEnv(problem), [set() for _ in allowed]
    for actions in np.random.default_rng(0).uniform(-1, 1, (60, 4, 1)).astype(np.float32):
        env.reset()
        for action in actions:
            *_, info = env.step(action)
        assert info["plan"]["kept"]["macs"] <= 0.5
        for seen, width in zip(taken, info["plan"]["widths"], strict=True):
            seen.add(width)
    assert all(seen <= widths for seen, widths in zip(taken, allowed, strict=True))
    assert all(len(seen) > 1 for seen in taken)


def test_channels_are_scored_once_on_the_images_of_the_task():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 20), nn.Linear(20, 3))
    images, shown = torch.randn(8, 5), []

    def loss(network):
        shown.append(network)
        yield network(images).square().mean()

    task = Task(model, images[:1], lambda _: {"kl": 0.0}, loss=loss)
    config = SearchConfig.parse({"budget": {"macs": 0.5}})
    problem = make_problem(task, config)  # taylor, as there is a loss
    assert len(shown) == 1
    out = model(images)
    (gradient,) = torch.autograd.grad(out.square().mean(), model[2].weight)
    expected = (model[2].weight * gradient).sum(0).abs().detach().numpy()
    np.testing.assert_allclose(problem.units[0].scores, expected, rtol=1e-5)
    assert problem.units[0].order.tolist() == np.argsort(-expected).tolist()
    observation = problem.rollout().observation
    top = np.sort(expected)[-8:].sum() / expected.sum()
    place = [feature.name for feature in FEATURES].index("mass_50")
    assert observation[place] == pytest.approx(top, rel=1e-5)

    without = Task(model, images[:1], lambda _: {"kl": 0.0})
    with pytest.raises(ConfigError, match=r"'taylor' .*Task\.loss"):
        make_problem(without, config.model_copy(update={"importance": "taylor"}))
    norms = model[2].weight.norm(dim=0).detach().numpy()  # contribution, as there is none
    np.testing.assert_allclose(make_problem(without, config).units[0].scores, norms, rtol=1e-6)


def test_each_unit_is_probed_once_and_then_the_plans_that_follow():
    model = nn.Sequential(
        nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 3)
    )
    probed, told, pruned = [], [], []

    def probe(candidate):
        widths = (candidate[0].out_features, candidate[2].out_features)
        probed.append(widths)
        return {(8, 20): 1.0, (16, 10): 3.0}.get(widths, 1.0 + 0.1 * len(probed))

    def loss(network):
        yield network(torch.ones(4, 5)).square().mean()

    def divergence(network):
        pruned.append([int(network[i].weight.any(0).sum()) for i in (2, 4)])
        yield network(torch.ones(4, 5)).square().mean()

    task = Task(model, torch.ones(1, 5), lambda _: {"kl": 0.0}, loss=loss, probe=probe)
    config = SearchConfig.parse({"budget": {"macs": 0.5}})
    problem = make_problem(task, config, on_stage=lambda *done: told.append(done))
    assert probed[:2] == [(8, 20), (16, 10)]
    assert told == [("halved units", 1, 2), ("halved units", 2, 2), ("plans to begin with", 1, 1)]
    np.testing.assert_allclose(problem.prior.sensitivity.alone, [0.5, 1.5])
    totals = np.array([unit.scores.sum() for unit in problem.units])
    np.testing.assert_allclose(problem.prior.sensitivity.gradient, totals / totals.mean())
    # Each plan is worse than the one before: the first is the reference plan.
    assert len(probed) == 2 + 3
    assert problem.reference(problem.budget).widths == probed[2]
    probed.clear()
    problem = make_problem(replace(task, divergence=divergence), config)
    assert pruned == [list(probed[2])]
    assert len(probed) == 2 + 3 + 2
    assert problem.reference(problem.budget).widths == probed[2]
    # Three budgets stand for a range, and none is tuned where nothing is bounded.
    config = SearchConfig.parse({"budget": {"macs": (0.3, 0.8)}})
    made = make_problem(task, config, on_stage=lambda *done: told.append(done))
    assert told[-1] == ("plans to begin with", 3, 3)
    assert made.reference(made.budgets.at(1.0)).widths != made.uniform(made.budgets.at(1.0)).widths

    ranked_by_norms = make_problem(task, config.model_copy(update={"importance": "l1"}))
    assert ranked_by_norms.prior.sensitivity.gradient is None
    ignorant = make_problem(replace(task, probe=None), config)
    assert ignorant.prior.sensitivity is None
    middle = ignorant.budgets.at(0.5)
    assert ignorant.reference(middle).widths == ignorant.uniform(middle).widths
