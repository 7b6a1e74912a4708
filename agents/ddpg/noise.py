"""Exploration: the truncated normal of He et al. 2018, section 3.3."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

_NORMAL = NormalDist()


class TruncatedNormal:
    """Actions around a mean, normal with deviation ``std``, conditioned to lie in [-1, 1].

    Unlike clipped noise it puts no mass on the bounds, which would mean "keep the minimum" and
    "keep all". Sampled by inverting the distribution function, one uniform number an action.
    """

    def __init__(self, std: float, generator: np.random.Generator) -> None:
        self.std = std
        self._generator = generator

    def __call__(self, mean: np.ndarray) -> np.ndarray:
        """A float32 array of the shape of ``mean``, whose entries are in [-1, 1]."""
        draws = self._generator.random(mean.shape)
        samples = [self._inverse(float(m), u) for m, u in zip(mean.flat, draws.flat, strict=True)]
        return np.array(samples, dtype=np.float32).reshape(mean.shape)

    def _inverse(self, mean: float, draw: float) -> float:
        if self.std == 0:
            return mean
        low = _NORMAL.cdf((-1.0 - mean) / self.std)
        high = _NORMAL.cdf((1.0 - mean) / self.std)
        # The quantile function is open at 0 and 1, which rounding can reach when std is tiny.
        quantile = min(max(low + (high - low) * draw, 1e-15), 1.0 - 1e-15)
        return min(max(mean + self.std * _NORMAL.inv_cdf(quantile), -1.0), 1.0)
