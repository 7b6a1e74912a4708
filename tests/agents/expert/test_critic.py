from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, DotProduct, Matern, WhiteKernel

from amc.agents.expert.critic import PlanCritic


def plans(count: int, units: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Keeps, and what is lost of a smooth quality with an interaction: (count,) positive."""
    keeps = np.random.default_rng(seed).uniform(0.1, 1.0, (count, units))
    loss = 1 / keeps - 1
    return keeps, 0.05 + loss @ np.linspace(0.1, 0.4, units) + 0.1 * loss[:, 0] * loss[:, 1]


def test_predicts_what_a_library_predicts_with_the_same_covariance() -> None:
    (keeps, lost), (others, _) = plans(30), plans(20, seed=1)
    critic = PlanCritic()
    critic.fit(keeps, lost)
    (linear, radial, length, noise), relevance = np.split(critic.hyperparameters, [4])
    similar = Matern(length * np.sqrt(4) / relevance, nu=1.5)
    kernel = (
        ConstantKernel(linear**2 / 4) * DotProduct(0.0, "fixed")
        + ConstantKernel(radial**2) * similar
        + WhiteKernel(noise**2 + 1e-6)
    )
    y = -np.log(lost)
    oracle = GaussianProcessRegressor(kernel, optimizer=None)
    oracle.fit(np.log(keeps) / 0.5, (y - y.mean()) / y.std())
    mean, std = oracle.predict(np.log(others) / 0.5, return_std=True)
    latent = np.sqrt(std**2 - noise**2 - 1e-6)  # the library's deviation is of a noisy reward
    ours_mean, ours_std = critic.predict(others)
    np.testing.assert_allclose(ours_mean, mean * y.std() + y.mean(), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(ours_std, latent * y.std(), rtol=1e-5)


def test_hyperparameters_are_a_maximum_of_the_posterior() -> None:
    critic = PlanCritic()
    critic.fit(*plans(60))
    found = np.log(critic.hyperparameters)
    at_found = critic.log_posterior(found)
    for index in range(len(found)):
        for step in (-0.1, 0.1):
            moved = found.copy()
            moved[index] += step
            assert critic.log_posterior(moved) < at_found


@pytest.mark.parametrize(("count", "least"), [(20, 0.85), (60, 0.95)])
def test_orders_plans_that_it_has_not_seen(count: int, least: float) -> None:
    critic = PlanCritic()
    critic.fit(*plans(count))
    others, lost = plans(200, seed=1)
    mean, std = critic.predict(others)
    ranks = [np.argsort(np.argsort(values)) for values in (mean, -lost)]
    assert np.corrcoef(*ranks)[0, 1] > least
    inside = np.abs(mean + np.log(lost)) < 2 * std + 2 * critic.hyperparameters[3]
    assert inside.mean() > 0.8


def test_a_unit_is_as_relevant_as_the_network_is_sensitive_to_it() -> None:
    keeps = np.random.default_rng(0).uniform(0.1, 1.0, (80, 4))
    lost = 0.1 + (1 / keeps - 1) @ np.array([0.5, 0.05, 0.0, 0.0])
    critic = PlanCritic()
    critic.fit(keeps[:40], lost[:40])
    relevance = critic.hyperparameters[4:]
    assert relevance[0] > 1.5 * relevance[1] > 3 * relevance[2:].max()
    wrong = np.abs(critic.predict(keeps[40:])[0] + np.log(lost[40:]))
    assert wrong.mean() < 0.2


def test_what_was_seen_is_certain_and_what_is_far_is_not() -> None:
    keeps, lost = plans(40)
    critic = PlanCritic()
    critic.fit(keeps, lost)
    _, near = critic.predict(keeps)
    _, far = critic.predict(np.full((1, 4), 0.01))
    assert near.max() < far[0]


def test_fits_of_a_growing_record_follow_it_and_nothing_else() -> None:
    keeps, lost = plans(50)
    one, two = PlanCritic(), PlanCritic()
    state = torch.random.get_rng_state()
    for critic in (one, two):
        for count in range(8, 51, 3):
            critic.fit(keeps[:count], lost[:count])
    np.testing.assert_array_equal(one.predict(keeps)[0], two.predict(keeps)[0])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_perfect_plan_and_equal_plans_do_no_harm() -> None:
    keeps, lost = plans(12)
    critic = PlanCritic()
    critic.fit(keeps, np.where(np.arange(12) == 3, 0.0, lost))
    assert np.isfinite(critic.predict(keeps)[0]).all()
    critic.fit(keeps, np.full(12, 0.5))
    assert np.isfinite(critic.predict(keeps)[0]).all()


def test_hyperparameters_beyond_all_numbers_are_unlikely_not_an_error() -> None:
    critic = PlanCritic()
    critic.fit(*plans(4, units=28))
    found = critic.log_posterior(np.log(critic.hyperparameters))
    # Where a line search of L-BFGS has been seen to look.
    wild = critic.log_posterior(np.append([-187.0, 376.5, -407.6, 2.0], np.full(28, 90.0)))
    assert np.isfinite(wild)
    assert wild < found - 1e5
