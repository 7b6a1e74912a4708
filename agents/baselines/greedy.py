"""Greedy descent on the budget: one unit is changed at a time, and what is better stays."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from amc.agents.baselines.base import Baseline
from amc.envs.rollout import Proposal
from amc.records.episode import Episode

_FIRST_STEP = float(np.log(2.0))
"""Of a unit's wish, as the logarithm of a factor: the first move halves it."""
_LEAST_STEP = 0.01
"""A unit whose step falls below this is done with."""


class GreedySearch(Baseline):
    """NetAdapt's greed (Yang et al., NetAdapt, ECCV 2018), on the budget from the first plan on.

    From the reference plan, the units take turns. A move shrinks one unit by its step, and the
    projection hands what that frees to all the others; or it grows the unit at their expense. A
    move that improves the reward stays, and doubles the unit's step. Otherwise the move is turned
    round, and where neither direction helps, the unit's step halves. (NetAdapt tries every unit
    before it makes the best move. On the budget, where moves hardly spoil each other, that spends
    a round of evaluations on one move; made at once, most of those that help are kept.)

    Several moves that are evaluated side by side start from the same plan: the best one stays, and
    the others that were better than that plan are the next to be tried. Nothing is random. No plan
    is proposed twice; the search ends where every step is too small to give a new one.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        problem = self._problem
        self._keeps = np.array(problem.reference_keep())
        self._reward = -np.inf
        self._steps = np.full(len(problem.units), -_FIRST_STEP)
        self._turned = np.zeros(len(problem.units), dtype=bool)
        self._turns: deque[int] = deque()
        self._asked: deque[int | None] = deque()
        """The unit that each waiting proposal moves; None for the first plan."""
        self._known: set[tuple[int, ...]] = set()

    def ask(self, count: int) -> list[Proposal]:
        """The reference plan; then up to ``count`` moves from the best plan so far."""
        if not self._known:
            return [self._note(self._moved(None), None)]
        proposals: list[Proposal] = []
        while self._turns and len(proposals) < count:
            unit = self._turns.popleft()
            proposal = self._moved(unit)
            if proposal.widths in self._known:
                self._reject(unit)
            else:
                proposals.append(self._note(proposal, unit))
        return proposals

    def tell(self, episodes: Sequence[Episode]) -> None:
        """Make the best move, and turn round those that helped nothing."""
        before, best = self._reward, max(episodes, key=lambda episode: episode.reward)
        if best.reward > before:
            self._reward, self._keeps = best.reward, np.array(best.executed_keep)
        for episode in episodes:
            unit = self._asked.popleft()
            if unit is None:
                self._turns.extend(range(len(self._steps)))
            elif episode.reward <= before:
                self._reject(unit)
            elif episode is best:
                self._steps[unit] *= 2.0
                self._turned[unit] = False
                self._turns.append(unit)
            else:
                self._turns.appendleft(unit)

    def _moved(self, unit: int | None) -> Proposal:
        """The best plan with ``unit`` moved by its step."""
        keeps = self._keeps.copy()
        if unit is not None:
            keeps[unit] = min(1.0, keeps[unit] * np.exp(self._steps[unit]))
        return self._problem.decode(self._problem.encode(keeps.tolist()))

    def _note(self, proposal: Proposal, unit: int | None) -> Proposal:
        self._known.add(proposal.widths)
        self._asked.append(unit)
        return proposal

    def _reject(self, unit: int) -> None:
        """The other direction next; after both, half the step, when the unit's turn comes again."""
        if not self._turned[unit]:
            self._steps[unit] *= -1.0
            self._turns.appendleft(unit)
        else:
            self._steps[unit] *= -0.5
            if abs(self._steps[unit]) >= _LEAST_STEP:
                self._turns.append(unit)
        self._turned[unit] = not self._turned[unit]
