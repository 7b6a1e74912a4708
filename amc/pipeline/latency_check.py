"""A plan that holds its latency by measurement, not only by prediction.

The best plans of a search are sliced and timed beside the dense network, in turns. The best that
holds is taken; where all of them miss, the budget that they are projected onto is tightened by as
much as they miss, their qualities are found anew, and it is tried again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from amc.cost.budget import Budget
from amc.cost.quantities import Limit
from amc.envs.problem import PruningProblem
from amc.errors import BudgetError
from amc.latency.device import DeviceLatency
from amc.latency.measurement import Clock, judge, measure
from amc.pruning.slicing.slice import slice_model
from amc.records.episode import Episode
from amc.records.results import Confirmation, Timed
from amc.tracing.units import kept_fractions
from amc.utils.formatting import percent

_CANDIDATES = 4
_ROUNDS = 6
_MARGIN = 0.005
"""By how much more than what was missed a budget is tightened; twice as much each time."""


@dataclass(frozen=True)
class _Turns:
    kept: list[float]
    us: list[float]
    dense_us: float
    clock: Clock
    noise: str


def confirm(
    problem: PruningProblem,
    device: DeviceLatency,
    history: Sequence[Episode],
    rank: Callable[[Episode], Any],
    bound: Limit | None,
    *,
    on_note: Callable[[str], None] = lambda _: None,
) -> tuple[Episode, Confirmation]:
    """The best plan of ``history`` by ``rank`` that holds ``bound`` by measurement.

    ``bound`` is a fraction of the dense network's time in the same turns, or microseconds; None:
    there is none. The episode may be a new one, numbered after the last. Raises
    :class:`BudgetError` where plans miss the bound however much it is tightened.
    """
    ranked = sorted({e.widths: e for e in history}.values(), key=rank, reverse=True)
    candidates = ranked[: 1 if bound is None else _CANDIDATES]
    tried: list[Timed] = []
    tightened: list[float] = []
    dense_predicted = problem.cost.dense("latency_us")
    factor = 1.0
    for number in range(_ROUNDS):
        turns = _time(problem, device, candidates)
        limit = _as_fraction(bound, turns.dense_us)
        tried += [
            Timed(
                widths=episode.widths,
                reward=episode.reward,
                predicted_us=episode.costs.get("latency_us", 0.0)
                * turns.dense_us
                / dense_predicted,
                measured_us=us,
                dense_us=turns.dense_us,
                holds=kept <= limit,
            )
            for episode, us, kept in zip(candidates, turns.us, turns.kept, strict=True)
        ]
        holding = [i for i, kept in enumerate(turns.kept) if kept <= limit]
        if holding:
            chosen = tried.pop(len(tried) - len(candidates) + holding[0])
            found = Confirmation(
                runtime=device.backend.description,
                identity=device.backend.identity(),
                batch=device.batch,
                clock=turns.clock,
                noise=turns.noise,
                limit_us=None if bound is None else limit * turns.dense_us,
                tightened=tuple(tightened),
                timed=(*tried, chosen),
            )
            return candidates[holding[0]], found
        factor *= (1 - _MARGIN * 2**number) * limit / min(turns.kept)
        tightened.append(factor)
        on_note(
            f"the best plans measure {percent(min(turns.kept))} of the dense latency or more, not "
            f"{percent(limit)}: planned for {percent(factor * limit)} now"
        )
        try:
            candidates = _tightened(
                problem, candidates, factor * limit * dense_predicted, len(history)
            )
        except BudgetError:  # not even the narrowest network is that fast
            break
        candidates.sort(key=rank, reverse=True)
    raise BudgetError(
        f"latency ≤ {percent(limit)} of dense is not held by measurement: the best of "
        f"{len(tried)} measured plans has {percent(min(t.measured_us / t.dense_us for t in tried))}"
        "; measure on a quieter machine, or raise the budget"
    )


def _as_fraction(bound: Limit | None, dense_us: float) -> float:
    if bound is None:
        return float("inf")
    return bound if isinstance(bound, float) else bound / dense_us


def _time(problem: PruningProblem, device: DeviceLatency, episodes: Sequence[Episode]) -> _Turns:
    models = [device.model, *(slice_model(device.model, problem.units, e.widths) for e in episodes)]
    forwards = [device.backend.load(model, device.inputs) for model in models]
    latencies = measure(forwards, time=device.backend.time)
    clock, noise = judge(latencies, device.backend.device)
    us = [1e3 * latency.ms(clock) for latency in latencies]
    return _Turns([x / us[0] for x in us[1:]], us[1:], us[0], clock, noise)


def _tightened(
    problem: PruningProblem, episodes: Sequence[Episode], latency_us: float, last: int
) -> list[Episode]:
    """The same plans on a lower bound, and what they are worth there."""
    found = {}
    for episode in episodes:
        budget = Budget(dict(episode.budget) | {"latency_us": latency_us}, problem.cost)
        wishes = np.array(kept_fractions(episode.widths, problem.units))
        proposal = problem.decode(problem.encode(np.maximum(wishes, problem.least_keep)), budget)
        found[proposal.widths] = proposal
    return [
        replace(problem.score(proposal), number=last + number)
        for number, proposal in enumerate(found.values(), start=1)
    ]
