from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest

from amc.agents.ddpg.noise import TruncatedNormal


def moments(mean: float, std: float) -> tuple[float, float]:
    """Mean and deviation of the normal truncated to [-1, 1], in closed form."""
    normal = NormalDist()
    a, b = (-1 - mean) / std, (1 - mean) / std
    mass = normal.cdf(b) - normal.cdf(a)
    shift = (normal.pdf(a) - normal.pdf(b)) / mass
    spread = 1 + (a * normal.pdf(a) - b * normal.pdf(b)) / mass - shift**2
    return mean + std * shift, std * math.sqrt(spread)


@pytest.mark.parametrize(
    ("mean", "std"), [(0.0, 0.5), (0.9, 0.5), (-1.0, 0.3), (1.0, 0.05), (0.2, 5.0)]
)
def test_moments(mean: float, std: float) -> None:
    noise = TruncatedNormal(std, np.random.default_rng(0))
    samples = noise(np.full((20_000,), mean))
    expected_mean, expected_std = moments(mean, std)
    assert np.all(np.abs(samples) <= 1)
    assert samples.mean() == pytest.approx(expected_mean, abs=5 * expected_std / 20_000**0.5)
    assert samples.std() == pytest.approx(expected_std, rel=0.03)


def test_distribution_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    samples = TruncatedNormal(0.4, np.random.default_rng(1))(np.full((5000,), 0.7))
    reference = stats.truncnorm((-1 - 0.7) / 0.4, (1 - 0.7) / 0.4, 0.7, 0.4)
    assert stats.kstest(samples.astype(float), reference.cdf).pvalue > 0.01


def test_no_spread_returns_the_mean_and_tiny_spread_stays_finite() -> None:
    mean = np.array([[-1.0], [0.3], [1.0]])
    np.testing.assert_array_equal(
        TruncatedNormal(0.0, np.random.default_rng(0))(mean), mean.astype(np.float32)
    )
    tiny = TruncatedNormal(1e-9, np.random.default_rng(0))(mean)
    np.testing.assert_allclose(tiny, mean, atol=1e-6)
