"""Bayesian optimisation of the actions of a whole plan, by optuna."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from amc.agents.baselines import Baseline
from amc.envs.pruning import Episode, PruningEnv
from amc.envs.walk import Proposal
from amc.errors import ConfigError

try:
    import optuna
    import scipy  # noqa: F401 (optuna reads it late, when the process is fitted)
except ImportError as error:
    raise ConfigError(
        f"agents 'tpe' and 'gp' need {error.name}: pip install amc-agent[compare]"
    ) from None


_SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "tpe": lambda seed: optuna.samplers.TPESampler(multivariate=True, seed=seed),
    "gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
}


class BayesianSearch(Baseline):
    """optuna's samplers with their own settings; the first is the reference plan.

    ``tpe`` is the tree-structured Parzen estimator over all actions together (Bergstra et al. 2011;
    multivariate: Falkner et al. 2018), ``gp`` expected improvement under a Gaussian process with
    one length scale a unit. Plans that wait for their reward are the sampler's own business.
    """

    def __init__(self, env: PruningEnv, sampler: str, seed: int) -> None:
        self._env = env
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # it would print every study and trial
        self._study = optuna.create_study(direction="maximize", sampler=_SAMPLERS[sampler](seed))
        self._space: dict[str, optuna.distributions.BaseDistribution] = {
            str(number): optuna.distributions.FloatDistribution(-1.0, 1.0)
            for number in range(len(env.units))
        }
        start = env.encode(env.reference_keep())
        self._study.enqueue_trial(dict(zip(self._space, start.tolist(), strict=True)))
        self._asked: deque[optuna.Trial] = deque()

    def ask(self, count: int) -> list[Proposal]:
        """``count`` plans, each proposed in the knowledge of those that wait."""
        trials = [self._study.ask(self._space) for _ in range(count)]
        self._asked += trials
        actions = [np.array([trial.params[name] for name in self._space]) for trial in trials]
        return [self._env.decode(row) for row in actions]

    def tell(self, episodes: Sequence[Episode]) -> None:
        """Hand the rewards over."""
        for episode in episodes:
            self._study.tell(self._asked.popleft(), episode.reward)
