"""Tables of layer times, against all of what they were sampled from."""

from __future__ import annotations

import numpy as np
import pytest

from amc.latency.predictor.interpolation import Axis, cross, diagonal


def kernel(inputs: float, outputs: float) -> float:
    """As ONNX Runtime's convolutions: blocks of 16 outputs, a slow path for odd inputs."""
    blocks = -(-outputs // 16) * 16
    if inputs <= 16:
        return 4 + 0.05 * inputs * blocks
    return 5 + 0.04 * (inputs if inputs % 4 == 0 else 1.6 * inputs) * blocks + 0.02 * outputs


class Clock:
    def __init__(self, noise: float) -> None:
        self.asked: set[tuple[int, int]] = set()
        self._noise = np.random.default_rng(0)
        self._std = noise

    def __call__(self, pairs):
        self.asked |= set(pairs)
        return [kernel(*pair) * (1 + self._std * abs(self._noise.normal())) for pair in pairs]


@pytest.mark.parametrize(
    ("inputs", "outputs", "share"),
    [
        (range(2, 17), range(2, 17), 1.0),
        (range(7, 65), range(4, 33), 0.35),
        (range(26, 257), range(26, 257), 0.02),
        (range(8, 513, 8), range(8, 513, 8), 0.3),
        ([3], range(2, 65), 1.0),
    ],
)
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_a_table_follows_from_few_of_its_entries(inputs, outputs, share, noise):
    clock = Clock(noise)
    us = cross(Axis(inputs), Axis(outputs), clock)
    true = np.array([[kernel(i, o) for o in outputs] for i in inputs])
    assert us.shape == true.shape
    error = np.abs(us / true - 1)
    assert np.quantile(error, 0.95) < 0.03 + 3 * noise
    assert np.median(error) < 0.01 + 2 * noise
    assert len(clock.asked) <= share * true.size


def test_a_wide_axis_of_a_depthwise_layer():
    sizes = range(30, 961)
    asked = []

    def measure(pairs):
        asked.extend(pairs)
        return [kernel(i, 16) for i, _ in pairs]

    us = diagonal(Axis(sizes), measure)
    true = np.array([kernel(n, 16) for n in sizes])
    assert all(i == o for i, o in asked)
    assert len(asked) < 60
    assert np.quantile(np.abs(us / true - 1), 0.95) < 0.03
