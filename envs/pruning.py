"""The environment: one episode decides how much of every unit of a network is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

import gymnasium
import numpy as np
from gymnasium import spaces

from amc.config import Constraint
from amc.envs.constraint import Constraint as _Constraint
from amc.envs.constraint import make_constraint
from amc.envs.features import HIGH, LOW, Observer
from amc.envs.reference import Lost, Reference, Tuned
from amc.envs.walk import Proposal, Walk, retrace
from amc.errors import EvaluationError, UnitError

if TYPE_CHECKING:
    from amc.budget import Budget, Budgets
    from amc.cost import CostTable
    from amc.envs.reward import Reward
    from amc.envs.sensitivity import Sensitivity
    from amc.projection import Projector
    from amc.tracing.units import Units

Evaluate = Callable[[tuple[int, ...]], Mapping[str, float]]
"""Kept widths, one per unit, to quality: ``accuracy``, ``cross_entropy``, ``kl``, ..."""


@dataclass(frozen=True)
class Episode:
    """One finished walk: what was asked, what was done, what it cost and what it is worth.

    The sequences hold one entry per unit. ``macs`` and ``params`` are counts, ``latency_us`` is
    what the model of the device predicts (None without one); ``kept_macs`` and so on are fractions
    of the dense network.
    """

    number: int
    """Counted from 1."""
    widths: tuple[int, ...]
    proposed_keep: tuple[float, ...]
    executed_keep: tuple[float, ...]
    macs: int
    params: int
    kept_macs: float
    kept_params: float
    quality: dict[str, float]
    reward: float
    seconds: dict[str, float]
    """Wall time of ``project`` and ``evaluate``."""
    budget: dict[str, float] = field(default_factory=dict)
    """Upper bounds under which it was walked, in absolute terms."""
    latency_us: float | None = None
    kept_latency_us: float | None = None

    @property
    def costs(self) -> dict[str, float]:
        """Absolute costs by quantity, as far as they are known."""
        known = {"macs": self.macs, "params": self.params, "latency_us": self.latency_us}
        return {name: cost for name, cost in known.items() if cost is not None}

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dicts and numbers; the inverse of :meth:`from_json`."""
        values = asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Rebuild an episode from :meth:`to_json`, or from ``info["plan"]``."""
        lists = ("widths", "proposed_keep", "executed_keep")
        return cls(**{**values, **{name: tuple(values[name]) for name in lists}})


class PruningEnv(gymnasium.Env[np.ndarray, np.ndarray]):
    """
    ## Description

    A trained network is a row of units (channels that can be removed together). One episode walks
    over them in forward order, one step a unit; at each the agent says how much it would like to
    keep. The walk's end gives a plan, one kept width per unit, which is evaluated once.

    ## Action space

    ``Box(-1, 1, (1,), float32)``: the unit's keep, from its allowed minimum (-1) to all of it (+1).

    | constraint   | wished keep for action a             | what is executed |
    |--------------|--------------------------------------|------------------|
    | `projection` | `least ** ((1 - a) / 2)` (log scale) | all wishes, scaled together onto the budget at the end |
    | `sequential` | `least + (1 - least) * (a + 1) / 2`  | the wish, clamped at once so that the budget stays within reach (He et al. 2018, Algorithm 1) |

    ## Observation space

    ``Box(low, high, (32,), float32)``, see :data:`amc.envs.features.FEATURES` for each meaning.

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
    | `executed` | at the end | the walk in which the plan itself had been proposed (:func:`amc.envs.walk.retrace`): `observations` `(units + 1, 32)` and `actions` `(units, 1)` |

    ## Arguments

    | argument     | meaning |
    |--------------|---------|
    | `units`      | the units, in forward order |
    | `cost`       | closed-form MACs and parameters of any widths |
    | `budgets`    | upper bounds, or a range of them; `reset(options={"budget": ...})` replaces it |
    | `evaluate`   | widths to quality; called once an episode, memoised by the caller if at all |
    | `reward`     | quality and absolute cost to a number |
    | `importance` | per unit, the scores of its channels |
    | `constraint` | `projection` or `sequential` |
    | `sensitivity` | what the units mean to the network (:mod:`amc.envs.sensitivity`); None: not known |
    | `tuned`      | what that makes of some budgets (:mod:`amc.envs.reference`); none: the reference plan is the uniform one |
    | `probe`      | what the network loses at some widths on training images, for plans that nobody evaluates; None: not known |

    Raises :class:`~amc.errors.UnitError` without units, :class:`~amc.errors.BudgetError` where not
    even the least widths meet the budget.
    """  # noqa: E501

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self,
        units: Units,
        cost: CostTable,
        budgets: Budgets,
        evaluate: Evaluate,
        reward: Reward,
        importance: Sequence[np.ndarray],
        constraint: Constraint = "projection",
        sensitivity: Sensitivity | None = None,
        tuned: Sequence[Tuned] = (),
        probe: Lost | None = None,
    ) -> None:
        if not units:
            raise UnitError(
                "there is no unit to prune: exclude fewer, or look at why they are frozen"
            )
        self.units = units
        self.cost = cost
        self.constraint: Constraint = constraint
        self.evaluate = evaluate
        self.reward = reward
        self.importance = importance
        self.sensitivity = sensitivity
        self.probe = probe
        self._reference = Reference(units, cost, tuned)
        self._observe = Observer(units, cost, importance, sensitivity, self._reference_actions)
        self.budgets = budgets
        (middle,) = budgets.spread(1)
        self._constraint = make_constraint(constraint, units, cost, middle)
        self.observation_space = spaces.Box(LOW, HIGH, dtype=np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, (1,), dtype=np.float32)
        self._episodes = 0
        self._walk = self.walk()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Return to the first unit, under a budget that is drawn where there is a range.

        ``options={"budget": ...}``, a budget or a range, takes the old one's place for good.
        """
        super().reset(seed=seed)
        if options and "budget" in options:
            self.budgets = options["budget"]
        self._constraint = self._constraint.under(self.budgets.draw(self.np_random))
        self._walk = self.walk()
        return self._walk.observation, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Decide one unit. Raises :class:`EvaluationError` for an action that is not a number."""
        self._walk.decide(np.asarray(action, dtype=np.float64).item())
        observation = self._walk.observation
        if not self._walk.finished:
            return observation, 0.0, False, False, {}
        episode = self.score(self._walk.propose())
        observations, actions = self.retrace(episode.widths, self.budget)
        executed = {"observations": observations, "actions": actions}
        info = {"plan": episode.to_json(), "executed": executed}
        return observation, episode.reward, True, False, info

    @property
    def budget(self) -> Budget:
        """The present episode's; what the methods below take where they are given none."""
        return self._constraint.budget

    @property
    def projector(self) -> Projector:
        """What puts wishes on a budget, many at once."""
        return self._constraint.projector

    def walk(self, budget: Budget | None = None) -> Walk:
        """A walk under ``budget``, for searchers that have several plans evaluated at once.

        Independent of :meth:`step`; :meth:`conclude` makes an episode of its proposal.
        """
        return Walk(self._under(budget), self._observe)

    def retrace(
        self, widths: Sequence[int], budget: Budget | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """See :func:`amc.envs.walk.retrace`."""
        return retrace(self._under(budget), self._observe, widths)

    def decode(self, actions: np.ndarray, budget: Budget | None = None) -> Proposal:
        """The plan of a walk that takes ``actions`` (units,), whatever it observes."""
        walk = self.walk(budget)
        for action in actions:
            walk.decide(float(action))
        return walk.propose()

    def round(self, wishes: np.ndarray, budget: Budget) -> np.ndarray:
        """Widths (n, units) that wishes (n, units) become; without limits the nearest allowed."""
        if not budget.limits:
            return np.array([self.decode(self.encode(row), budget).widths for row in wishes])
        return self.projector(wishes, budget)

    def encode(self, keeps: Sequence[float]) -> np.ndarray:
        """The actions (units,) float64 that wish ``keeps``, kept fractions of the units."""
        return np.array([self._constraint.action(i, keep) for i, keep in enumerate(keeps)])

    @property
    def least_keep(self) -> np.ndarray:
        """(units,) the kept fractions that action -1 wishes."""
        return self._constraint.least_keep

    def uniform_keep(self, budget: Budget | None = None) -> tuple[float, ...]:
        """Kept fractions of the uniform plan: the same wish everywhere, on the budget."""
        return self._projected(np.ones(len(self.units)), budget)

    def reference_keep(self, budget: Budget | None = None) -> tuple[float, ...]:
        """Kept fractions of the reference plan (:class:`amc.envs.reference.Reference`): what is
        known before any plan is evaluated. The uniform plan, where nothing is."""
        return self._projected(self._reference.wishes(budget or self.budget), budget)

    def uniform(self, budget: Budget | None = None) -> Proposal:
        """The uniform plan, as a walk proposes it."""
        return self.decode(self.encode(self.uniform_keep(budget)), budget)

    def reference(self, budget: Budget | None = None) -> Proposal:
        """The reference plan, as a walk proposes it."""
        return self.decode(self.encode(self.reference_keep(budget)), budget)

    def score(self, proposal: Proposal) -> Episode:
        """Evaluate a proposal. Raises :class:`EvaluationError`, naming its widths."""
        started = time.perf_counter()
        try:
            quality = self.evaluate(proposal.widths)
        except EvaluationError as error:
            raise EvaluationError(f"widths {list(proposal.widths)}: {error}") from error
        return self.conclude(proposal, quality, time.perf_counter() - started)

    def conclude(
        self, proposal: Proposal, quality: Mapping[str, float], evaluate_seconds: float
    ) -> Episode:
        """The episode that ends with this quality. Raises what the reward raises."""
        widths = proposal.widths
        costs: dict[str, float] = {
            name: self.cost.function(name)(widths) for name in self.cost.quantities
        }
        latency_us = costs.get("latency_us")
        try:
            reward = self.reward(quality, costs)
        except EvaluationError as error:
            raise EvaluationError(f"widths {list(widths)}: {error}") from error
        self._episodes += 1
        return Episode(
            number=self._episodes,
            widths=widths,
            proposed_keep=proposal.wishes,
            executed_keep=tuple(k / u.width for k, u in zip(widths, self.units, strict=True)),
            macs=int(costs["macs"]),
            params=int(costs["params"]),
            kept_macs=costs["macs"] / self.cost.dense_macs,
            kept_params=costs["params"] / self.cost.dense_params,
            latency_us=latency_us,
            kept_latency_us=latency_us and latency_us / self.cost.dense("latency_us"),
            quality=dict(quality),
            reward=reward,
            seconds={"project": proposal.project_seconds, "evaluate": evaluate_seconds},
            budget=dict(proposal.budget.limits),
        )

    def _projected(self, wishes: np.ndarray, budget: Budget | None) -> tuple[float, ...]:
        (widths,) = self.projector(wishes[None], budget or self.budget)
        return tuple(int(k) / unit.width for k, unit in zip(widths, self.units, strict=True))

    def _reference_actions(self, budget: Budget) -> np.ndarray:
        return self.encode(self.reference_keep(budget))

    def _under(self, budget: Budget | None) -> _Constraint:
        return self._constraint if budget is None else self._constraint.under(budget)
