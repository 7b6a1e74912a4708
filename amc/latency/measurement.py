"""Measured latency: networks side by side, in one process, in turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from amc.latency.backends.base import Forward, host_time

Clock = Literal["wall", "cpu"]
Time = Callable[[Forward], tuple[float, float]]
"""Runs one forward: its seconds by the wall clock, and of all processors together."""

STALL = 1.1
"""Wall time over CPU time from which on the process must have waited for its turn on a processor:
threads that compute make CPU time the larger one."""
ERROR = 0.02
"""Standard error of a median, relative to it, from which on it tells too little."""
RUN_UP = 2
"""Forwards of a network before the one that counts, in each turn: behind another network's it takes
some percent longer, and a narrow network's more so than the dense one's."""
CHECKED = 10
"""Turns between two looks at whether there were enough."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward."""

    median_ms: float
    spread_ms: float
    """Interquartile range."""
    cpu_ms: float
    """Median CPU time of the process, all its threads together."""
    cpu_spread_ms: float
    """Interquartile range of the same."""
    turns: int

    def ms(self, clock: Clock) -> float:
        """The median by that clock."""
        return self.median_ms if clock == "wall" else self.cpu_ms

    def error(self, clock: Clock) -> float:
        """Standard error of that median, relative to it.

        Of n draws from a normal distribution of interquartile range q it is 0.93 q / sqrt(n): the
        median's is 1.25 standard deviations over sqrt(n), and q is 1.35 of them.
        """
        spread = self.spread_ms if clock == "wall" else self.cpu_spread_ms
        return 0.93 * spread / self.turns**0.5 / self.ms(clock) if self.ms(clock) else 0.0


def measure(
    forwards: Sequence[Forward],
    *,
    repeats: int = 30,
    warmup: int = 5,
    min_seconds: float = 1.0,
    max_seconds: float = 20.0,
    time: Time = host_time,
) -> list[Latency]:
    """Latency of each forward; ``time`` is that of the runtime that they were loaded into.

    They take turns, so that a machine that slows down slows all of them. In each turn a network
    runs :data:`RUN_UP` times before the forward that counts: then its weights are in the caches, as
    they are where no other network runs. There are at least ``repeats`` turns and ``min_seconds``
    in all, and more until the medians by one of the clocks are certain to :data:`ERROR`. After
    ``max_seconds`` there is no further turn, unless there were fewer than ``warmup``. Before all
    that each has ``warmup`` turns that do not count.
    """
    total = 0.0

    def run(forward: Forward) -> tuple[float, float]:
        nonlocal total
        for _ in range(RUN_UP):
            total += time(forward)[0]
        taken = time(forward)
        total += taken[0]
        return taken

    for _ in range(warmup):
        for forward in forwards:
            run(forward)
    turns: list[list[tuple[float, float]]] = []
    total = 0.0
    while True:
        turns.append([run(forward) for forward in forwards])
        if total >= max_seconds and len(turns) >= warmup:
            return _latencies(turns)
        if len(turns) >= repeats and total >= min_seconds and len(turns) % CHECKED == 0:
            latencies = _latencies(turns)
            if all(min(x.error("wall"), x.error("cpu")) <= ERROR for x in latencies):
                return latencies


def _latencies(turns: Sequence[Sequence[tuple[float, float]]]) -> list[Latency]:
    low, middle, high = np.percentile(np.array(turns) * 1e3, (25, 50, 75), axis=0)
    return [
        Latency(
            median_ms=float(middle[number, 0]),
            spread_ms=float(high[number, 0] - low[number, 0]),
            cpu_ms=float(middle[number, 1]),
            cpu_spread_ms=float(high[number, 1] - low[number, 1]),
            turns=len(turns),
        )
        for number in range(len(turns[0]))
    ]


def judge(latencies: Sequence[Latency], device: str = "cpu") -> tuple[Clock, str]:
    """Which clock can be trusted, and a warning in words; empty where all is well.

    CPU time decides where the machine was too busy for the wall clock: that of a GPU's program says
    nothing of the GPU, so that there the wall clock stays.
    """
    error = max(latency.error("wall") for latency in latencies)
    if device != "cpu":
        return "wall", _uncertain(error, "the medians are")
    waited = max(latency.median_ms / (latency.cpu_ms or latency.median_ms) for latency in latencies)
    if waited <= STALL and error <= ERROR:
        return "wall", ""
    why = (
        f"forwards waited for a processor ({waited:.1f} times their CPU time)"
        if waited > STALL
        else f"the medians are uncertain by {error:.1%}"
    )
    still = _uncertain(max(latency.error("cpu") for latency in latencies), "that is")
    return "cpu", f"the machine is busy: {why}; CPU time decides" + (still and f", but {still}")


def _uncertain(error: float, what: str) -> str:
    if error <= ERROR:
        return ""
    return f"{what} uncertain by {error:.1%}: measure again when the machine is idle"


def quickest(
    forwards: Sequence[Forward],
    time: Time = host_time,
    *,
    rounds: int = 4,
    least: int = 3,
    seconds: float = 0.002,
) -> list[float]:
    """Seconds of the quickest of many forwards of each: what it takes where nothing disturbs it.

    They are run in several rounds, in each at least ``least`` times and ``seconds`` long, so that a
    disturbance which lasts is not there in all. The clock is the wall's.
    """
    best = [float("inf")] * len(forwards)
    for _ in range(rounds):
        for number, forward in enumerate(forwards):
            time(forward)  # brings its weights into the caches
            spent, runs = 0.0, 0
            while runs < least or spent < seconds:
                taken, _ = time(forward)
                best[number] = min(best[number], taken)
                spent, runs = spent + taken, runs + 1
    return best
