"""Latency by clocks that tests set: turns, medians, how long, and whether to believe them."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from amc.latency.backends import make_backend
from amc.latency.measurement import RUN_UP, Latency, judge, measure


def clock(calls, *scripts):
    """A ``time`` that takes each forward's (wall, cpu) seconds from its script, over and over.

    What does not count, on cold caches, is slow.
    """
    endless = [itertools.cycle(script) for script in scripts]
    run_up = itertools.cycle([True] * RUN_UP + [False])

    def time(forward):
        calls.append(forward)
        return (0.5, 0.5) if next(run_up) else next(endless[forward])

    return time


def test_networks_take_turns_and_warm_up():
    calls = []
    first, second = measure(
        [0, 1],
        repeats=10,
        warmup=1,
        min_seconds=0,
        # The first turn, which does not count, is the slow one.
        time=clock(
            calls,
            [(9, 9), *[(wall / 1000, 0.002) for wall in (7, 2, 11, 4, 1, 9, 3, 10, 5, 8)]],
            [(9, 9), *[(0.010, 0.020)] * 10],
        ),
    )
    assert calls == [*[0] * (RUN_UP + 1), *[1] * (RUN_UP + 1)] * 11
    # Between the fifth and the sixth of ten; the third and a quarter, the seventh and three.
    assert first.median_ms == pytest.approx(6)
    assert first.spread_ms == pytest.approx(8.75 - 3.25)
    assert (first.cpu_ms, first.cpu_spread_ms) == pytest.approx((2, 0))
    assert (second.median_ms, second.spread_ms) == pytest.approx((10, 0))
    assert first.turns == 10


@pytest.mark.parametrize(
    ("seconds", "turns"),
    [(0.001, 340), (0.1, 30), (2.0, 5), (0.9, 12)],
    ids=["enough seconds", "enough turns", "time is up", "never too few"],
)
def test_how_many_turns(seconds, turns):
    def time(_):
        return seconds, seconds

    (latency,) = measure([0], repeats=30, min_seconds=0.9999, max_seconds=29.999, time=time)
    assert latency.turns == turns


def test_an_uncertain_machine_is_asked_longer():
    calls = []
    time = clock(calls, [(0.1, 0.1), (0.2, 0.2), (0.15, 0.15)])
    (latency,) = measure([0], repeats=30, max_seconds=10_000, time=time)
    # A spread of .1 around .15: 0.93 * 0.1 / 0.15 / sqrt(n) is 2% at n = 961.
    assert latency.turns == 970
    assert latency.error("wall") < 0.02
    time = clock(calls, [(0.1, 0.1), (0.2, 0.2), (0.15, 0.15)])
    (latency,) = measure([0], repeats=30, max_seconds=114.9, time=time)
    assert latency.turns == 100  # but not for ever
    steady = clock(calls, [(0.1, 0.07), (0.2, 0.07), (0.15, 0.07)])
    (latency,) = measure([0], repeats=30, max_seconds=1000, time=steady)
    assert latency.turns == 30  # CPU time can be trusted


def test_the_error_of_a_median_is_what_a_simulation_says():
    draws = np.random.default_rng(0).normal(10, 0.5, (4000, 101))
    low, high = np.percentile(draws, (25, 75), axis=1).mean(axis=1)
    latency = Latency(10, float(high - low), 10, 0, 101)
    assert latency.error("wall") == pytest.approx(np.median(draws, axis=1).std() / 10, rel=0.05)
    assert latency.error("cpu") == 0


def quiet(ms=10.0, **changes):
    return Latency(**{"median_ms": ms, "spread_ms": 0.1, "cpu_ms": ms, "cpu_spread_ms": 0.1}
                   | {"turns": 30} | changes)  # fmt: skip


def test_a_quiet_machine_is_believed():
    assert judge([quiet(), quiet(5.0)]) == ("wall", "")
    assert judge([quiet(cpu_ms=38.0)]) == ("wall", "")  # four threads


def test_cpu_time_decides_where_forwards_had_to_wait():
    found, words = judge([quiet(), quiet(median_ms=25.0)])
    assert found == "cpu"
    assert "waited for a processor (2.5 times their CPU time)" in words
    assert words.endswith("CPU time decides")
    assert quiet(median_ms=25.0).ms(found) == 10


def test_and_where_the_medians_are_uncertain():
    found, words = judge([quiet(), quiet(spread_ms=2.0)])
    assert found == "cpu"
    assert "uncertain by 3.4%" in words  # 0.93 * 2 / sqrt(30) / 10
    assert words.endswith("CPU time decides")
    _, words = judge([quiet(spread_ms=2.0, cpu_spread_ms=4.0)])
    assert words.endswith("but that is uncertain by 6.8%: measure again when the machine is idle")


def test_the_cpu_time_of_a_program_says_nothing_of_its_gpu():
    assert judge([quiet(cpu_ms=0.5)], "cuda") == ("wall", "")
    found, words = judge([quiet(cpu_ms=0.5, spread_ms=2.0)], "cuda:1")
    assert found == "wall"
    assert words.startswith("the medians are uncertain by 3.4%: measure again")


def test_a_hundredfold_network_is_slower_by_real_clocks():
    small = nn.Linear(64, 64)
    large = nn.Sequential(nn.Linear(64, 1024), *[nn.Linear(1024, 1024) for _ in range(8)])
    runtime = make_backend("torch")
    forwards = [runtime.load(model, (torch.randn(8, 64),)) for model in (small, large)]
    fast, slow = measure(forwards, repeats=15, min_seconds=0, time=runtime.time)
    assert slow.cpu_ms > 3 * fast.cpu_ms > 0
