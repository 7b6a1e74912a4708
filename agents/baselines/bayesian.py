"""Bayesian optimisation of the actions of a whole plan, by optuna."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from amc.agents.baselines.base import Baseline
from amc.envs.rollout import Proposal
from amc.errors import ConfigError
from amc.records.episode import Episode

try:
    import optuna
    import scipy  # noqa: F401 (optuna reads it late, when the process is fitted)
except ImportError as error:
    raise ConfigError(
        f"agents 'tpe' and 'gp' need {error.name}: pip install amc-agent[compare]"
    ) from None


class BayesianSearch(Baseline):
    """A sampler of optuna's with its own settings; the first plan is the reference plan.

    Plans that wait for their reward are the sampler's own business.
    """

    @abstractmethod
    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """The sampler."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        problem = self._problem
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # it would print every study and trial
        self._study = optuna.create_study(direction="maximize", sampler=self.sampler(self._seed))
        self._space: dict[str, optuna.distributions.BaseDistribution] = {
            str(number): optuna.distributions.FloatDistribution(-1.0, 1.0)
            for number in range(len(problem.units))
        }
        start = problem.encode(problem.reference_keep())
        self._study.enqueue_trial(dict(zip(self._space, start.tolist(), strict=True)))
        self._asked: deque[optuna.Trial] = deque()

    def ask(self, count: int) -> list[Proposal]:
        """``count`` plans, each proposed in the knowledge of those that wait."""
        trials = [self._study.ask(self._space) for _ in range(count)]
        self._asked += trials
        actions = [np.array([trial.params[name] for name in self._space]) for trial in trials]
        return [self._problem.decode(row) for row in actions]

    def tell(self, episodes: Sequence[Episode]) -> None:
        """Hand the rewards over."""
        for episode in episodes:
            self._study.tell(self._asked.popleft(), episode.reward)


class TPESearch(BayesianSearch):
    """The tree-structured Parzen estimator over all actions together (Bergstra et al. 2011;
    multivariate: Falkner et al. 2018)."""

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """See :class:`BayesianSearch`."""
        return optuna.samplers.TPESampler(multivariate=True, seed=seed)


class GPSearch(BayesianSearch):
    """Expected improvement under a Gaussian process with one length scale a unit."""

    def sampler(self, seed: int) -> optuna.samplers.BaseSampler:
        """See :class:`BayesianSearch`."""
        return optuna.samplers.GPSampler(seed=seed)
