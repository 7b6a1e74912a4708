"""The critic: a Gaussian process from a whole plan to what it is worth, fitted after each episode.

A search has tens of episodes, not thousands, and each ends in one number that depends on all widths
together: a process learns the order of plans from as few as there are.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_UNIT = 0.5
"""This much of a keep's logarithm is one unit of the process's input."""
_PRIOR_MEAN = torch.log(torch.tensor([0.6, 0.6, 2.0, 0.15], dtype=torch.float64))
_PRIOR_STD = torch.tensor([0.5, 0.5, 0.5, 0.3], dtype=torch.float64)
_RELEVANCE_STD = 0.7
_FAR = 8
"""Deviations of the prior beyond which the likelihood is not looked at."""
_JITTER = 1e-6
_REFIT_GROWTH = 1.1
LEAST_LOSS = 1e-3
"""Losses below this are as good as none."""


class PlanCritic:
    """Mean and deviation of the worth of any plan, given those that were evaluated.

    Worth is -log(loss): losses (a KL divergence, an error) vary by factors, and on the scale of the
    losses a few broken plans would be all that the process explains. The covariance of two plans of
    u units, x and x' the logarithms of their keeps, is

        linear² · x·x'/u + radial² · (1 + d) exp(-d),   d² = 3 Σ relevance² (x - x')² / (u length²),

    where the second part is Matérn's with smoothness 3/2, in which a unit counts as much as the
    network is sensitive to it. The worth carries noise: what rounding to widths does is not smooth.
    The hyperparameters maximise the posterior density under log-normal priors (Rasmussen and
    Williams 2006, equations 4.17, 5.1 and 5.8), by L-BFGS; they are fitted again whenever the
    record has grown by a tenth.

    The kernel is a rough one on purpose: a smoother process without relevances orders plans as
    well, but is too sure of itself where it has not looked, and a search with it stands still.
    """

    def __init__(self) -> None:
        self._fitted_on = 0

    @property
    def hyperparameters(self) -> np.ndarray:
        """``linear``, ``radial``, ``length`` and ``noise``, all but ``length`` relative to the
        deviation of the worth in the record; then the relevance of each unit."""
        return self._logs.exp().numpy()

    def fit(self, keeps: np.ndarray, losses: np.ndarray) -> None:
        """Learn from plans: kept fractions ``(n, units)`` in (0, 1], losses ``(n,)`` from 0 up."""
        self._inputs = _inputs(keeps)
        worth = -torch.from_numpy(np.maximum(losses, LEAST_LOSS)).log()
        self._mean, self._scale = worth.mean(), worth.std(correction=0).clamp(min=1e-9)
        self._targets = (worth - self._mean) / self._scale
        if not self._fitted_on:
            relevances = torch.zeros(keeps.shape[1], dtype=torch.float64)
            self._prior_mean = self._logs = torch.cat([_PRIOR_MEAN, relevances])
            self._prior_std = torch.cat([_PRIOR_STD, relevances + _RELEVANCE_STD])
        if len(worth) >= _REFIT_GROWTH * self._fitted_on:
            self._logs = self._most_likely()
            self._fitted_on = len(worth)
        self._factor = self._factorise(self._logs)
        self._weights = torch.cholesky_solve(self._targets[:, None], self._factor)[:, 0]

    def predict(self, keeps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation, each ``(m,)``, of the worth of plans ``(m, units)``."""
        inputs = _inputs(keeps)
        cross = self._covariance(inputs, self._inputs, self._logs)
        explained = torch.linalg.solve_triangular(self._factor, cross.T, upper=False)
        linear, radial = self._logs[:2].exp().square()
        prior = linear * inputs.square().mean(1) + radial
        variance = (prior - explained.square().sum(0)).clamp(min=1e-12)
        mean = cross @ self._weights * self._scale + self._mean
        return mean.numpy(), (variance.sqrt() * self._scale).numpy()

    def optimistic(self, keeps: np.ndarray, optimism: float) -> np.ndarray:
        """Mean + optimism · deviation (m,), the upper confidence bound of Auer (2002)."""
        mean, std = self.predict(keeps)
        return mean + optimism * std

    def log_posterior(self, log_hyperparameters: np.ndarray) -> float:
        """Log density of the hyperparameters' logarithms given the record, up to a constant."""
        return -self._negative_log_posterior(torch.from_numpy(log_hyperparameters)).item()

    def _negative_log_posterior(self, logs: Tensor) -> Tensor:
        # A line search may look where no exponential is finite; the prior calls it back.
        far = _FAR * self._prior_std
        factor = self._factorise(logs.clamp(self._prior_mean - far, self._prior_mean + far))
        whitened = torch.linalg.solve_triangular(factor, self._targets[:, None], upper=False)
        likelihood = 0.5 * whitened.square().sum() + factor.diagonal().log().sum()
        unlikely = 0.5 * ((logs - self._prior_mean) / self._prior_std).square().sum()
        total: Tensor = likelihood + unlikely
        return total

    def _most_likely(self) -> Tensor:
        """The posterior's maximum near the present hyperparameters."""
        logs = self._logs.clone().requires_grad_()
        optimiser = torch.optim.LBFGS([logs], max_iter=20, line_search_fn="strong_wolfe")

        def loss() -> float:
            optimiser.zero_grad()
            value = self._negative_log_posterior(logs)
            value.backward()
            return value.item()

        optimiser.step(loss)
        return logs.detach()

    def _factorise(self, logs: Tensor) -> Tensor:
        """The Cholesky factor of the record's covariance, noise included."""
        covariance = self._covariance(self._inputs, self._inputs, logs)
        noise = logs[3].exp().square() + _JITTER
        factor: Tensor = torch.linalg.cholesky(covariance + noise * torch.eye(len(covariance)))
        return factor

    def _covariance(self, a: Tensor, b: Tensor, logs: Tensor) -> Tensor:
        linear, radial, length = logs[:3].exp()
        units = a.shape[1]
        scale = logs[4:].exp() * math.sqrt(3 / units) / length
        distance = torch.cdist(a * scale, b * scale, compute_mode="donot_use_mm_for_euclid_dist")
        similar = (1 + distance) * torch.exp(-distance)
        covariance: Tensor = linear.square() * (a @ b.T) / units + radial.square() * similar
        return covariance


def _inputs(keeps: np.ndarray) -> Tensor:
    return torch.from_numpy(np.log(keeps) / _UNIT)
