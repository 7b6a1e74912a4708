"""One pass over the units: observe, decide, propose. What an episode is before it is evaluated."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from amc.errors import ConfigError, EvaluationError
from amc.tracing.units import kept_fractions

if TYPE_CHECKING:
    from amc.cost.budget import Budget
    from amc.envs.action_mapping import ActionMapping
    from amc.envs.observation import Observer


@dataclass(frozen=True)
class Proposal:
    """A plan that waits for its quality."""

    widths: tuple[int, ...]
    """Allowed kept widths, one a unit, on the budget."""
    wishes: tuple[float, ...]
    """The kept fractions that were asked for."""
    budget: Budget
    project_seconds: float


class Rollout:
    """A pass over the units under one budget. Many can be under way at once."""

    def __init__(self, mapping: ActionMapping, observe: Observer) -> None:
        self._mapping, self._observe = mapping, observe
        self._wishes: list[float] = []
        self._chosen: list[int] = []
        self._previous_action = 1.0

    @property
    def budget(self) -> Budget:
        """What its plan will have to meet."""
        return self._mapping.budget

    @property
    def step(self) -> int:
        """Index of the unit to decide."""
        return len(self._chosen)

    @property
    def finished(self) -> bool:
        """Whether every unit is decided."""
        return self.step == len(self._mapping.units)

    @property
    def observation(self) -> np.ndarray:
        """``(features,)`` float32, before the next unit; after the last, its row once more."""
        budget = self._mapping.budget
        return self._observe(self.step, self._chosen, self._previous_action, budget)

    def decide(self, action: float) -> None:
        """Take ``action``, clipped to [-1, 1], on the next unit.

        Raises :class:`EvaluationError` where it is not a number, :class:`ConfigError` after the
        last unit.
        """
        if self.finished:
            raise ConfigError("the episode is over: call reset() before the next step()")
        unit = self._mapping.units[self.step]
        if not np.isfinite(action):
            raise EvaluationError(
                f"action {action} on unit {unit.name}: the actor diverged; lower its learning rate"
            )
        value = float(np.clip(action, -1.0, 1.0))
        wish = self._mapping.wish(self.step, value)
        width = self._mapping.admit(self.step, wish, self._chosen)
        self._previous_action = self._mapping.taken(self.step, value, width)
        self._wishes.append(wish)
        self._chosen.append(width)

    def propose(self) -> Proposal:
        """The plan of a finished rollout."""
        started = time.perf_counter()
        widths = self._mapping.finish(np.array(self._wishes), self._chosen)
        seconds = time.perf_counter() - started
        return Proposal(widths, tuple(self._wishes), self._mapping.budget, seconds)


def retrace(
    mapping: ActionMapping, observe: Observer, widths: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """The rollout in which a plan itself is proposed.

    Returns its observations ``(units + 1, features)`` and actions ``(units, 1)``, float32. This is
    what a replay buffer should hold: a true rollout, because a plan that is on the budget is
    executed as it is by either mapping. The rollout that led to the plan is a poor teacher: under
    `projection` any common factor of the wishes gives the same plan, under `sequential` a clamped
    action did not happen.
    """
    keeps = kept_fractions(widths, mapping.units)
    actions = [mapping.action(i, keep) for i, keep in enumerate(keeps)]
    observations = [
        observe(i, widths[:i], previous, mapping.budget)
        for i, previous in enumerate([1.0, *actions])
    ]
    return np.stack(observations), np.array(actions, dtype=np.float32)[:, None]
