"""The environment of Gymnasium: one episode decides how much of every unit of a network is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from amc.envs.observation import HIGH, LOW
from amc.envs.problem import PruningProblem

if TYPE_CHECKING:
    from amc.cost.budget import Budget


class PruningEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """
    ## Description

    A trained network is a row of units (channels that can be removed together). One episode goes
    over them in forward order, one step a unit; at each the agent says how much it would like to
    keep. Its end gives a plan, one kept width per unit, which is evaluated once.

    ## Action space

    ``Box(-1, 1, (1,), float32)``: the unit's keep, from its allowed minimum (-1) to all of it (+1).

    | constraint   | wished keep for action a             | what is executed |
    |--------------|--------------------------------------|------------------|
    | `projection` | `least ** ((1 - a) / 2)` (log scale) | all wishes, scaled together onto the budget at the end |
    | `sequential` | `least + (1 - least) * (a + 1) / 2`  | the wish, clamped at once so that the budget stays within reach (He et al. 2018, Algorithm 1) |

    ## Observation space

    ``Box(low, high, (32,), float32)``, see :data:`amc.envs.observation.FEATURES` for each meaning.

    | num   | features                                                      | low | high |
    |-------|---------------------------------------------------------------|-----|------|
    | 0     | position of the unit                                          | 0   | 1    |
    | 1-3   | lead is linear, lead is depthwise, unit is a residual stream  | 0   | 1    |
    | 4-9   | output and input channels, height, width, stride, kernel (logs) | 0 | 1    |
    | 10-12 | share of the removable MACs, parameters, latency (logs)       | -1  | 1    |
    | 13-18 | MACs reduced so far, MACs that can still go; the same for parameters, latency | 0 | 1 |
    | 19    | previous action                                               | -1  | 1    |
    | 20-22 | budget of MACs, of parameters, of latency                     | 0   | 1    |
    | 23-25 | tied producers, granularity (logs), least keep                | 0   | 1    |
    | 26-28 | importance held by the top 25, 50, 75% of the channels        | 0   | 1    |
    | 29-30 | what the loss should feel of the unit: halved alone, by the gradient (logs) | -1 | 1 |
    | 31    | its action in the reference plan                              | -1  | 1    |

    "So far" refers to the wishes under `projection` and to the executed widths under `sequential`.

    ## Reward

    0 at every step but the last, where it is ``reward(quality, {"macs": ..., "params": ...})`` of
    the plan (:mod:`amc.envs.reward`).

    ## Starting state

    The first unit of the dense network. Where the budget is a range, each ``reset()`` draws the
    episode's from it, uniformly (before the first, it is the middle one); nothing else is random.

    ## Episode end

    ``terminated`` at the last unit; never ``truncated``. The last observation repeats the last
    unit's row, with everything reduced and nothing at rest.

    ## Info

    | key        | when       | what |
    |------------|------------|------|
    | `plan`     | at the end | :class:`Episode` as a dict: proposed and executed keep, widths, costs, quality, reward, seconds |
    | `executed` | at the end | the rollout in which the plan itself is proposed (:func:`amc.envs.rollout.retrace`): `observations` `(units + 1, 32)` and `actions` `(units, 1)` |

    ## Arguments

    | argument  | meaning |
    |-----------|---------|
    | `problem` | the network's units, costs, budgets and quality (:class:`amc.envs.problem.PruningProblem`) |
    """  # noqa: E501

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(self, problem: PruningProblem) -> None:
        self.problem = problem
        self.budgets = problem.budgets
        self.observation_space = spaces.Box(LOW, HIGH, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), dtype=np.float32)
        self._rollout = problem.rollout()

    @property
    def budget(self) -> Budget:
        """The present episode's."""
        return self._rollout.budget

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Return to the first unit, under a budget that is drawn where there is a range.

        ``options={"budget": ...}``, a budget or a range, takes the old one's place for good.
        """
        super().reset(seed=seed)
        if options and "budget" in options:
            self.budgets = options["budget"]
        self._rollout = self.problem.rollout(self.budgets.draw(self.np_random))
        return self._rollout.observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Decide one unit. Raises :class:`EvaluationError` for an action that is not a number."""
        self._rollout.decide(np.asarray(action, dtype=np.float64).item())
        observation = self._rollout.observation
        if not self._rollout.finished:
            return observation, 0.0, False, False, {}
        episode = self.problem.score(self._rollout.propose())
        observations, actions = self.problem.retrace(episode.widths, self.budget)
        executed = {"observations": observations, "actions": actions}
        info = {"plan": episode.to_json(), "executed": executed}
        return observation, episode.reward, True, False, info
