"""Numbers as people read them."""

from __future__ import annotations

import pytest

from amc.cost import quantities
from amc.utils import formatting


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (270_896, "271 k"),
        (999_499, "999 k"),
        (999_500, "1.00 M"),
        (20_406_592, "20.4 M"),
        (4_089_184_256, "4.09 G"),
        (3.2e12, "3.2 T"),
    ],
)
def test_count(value: float, shown: str) -> None:
    assert formatting.count(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.421, "0.42 s"),
        (0.9999, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (723.2, "12 min 3 s"),
        (3599.7, "1 h 0 min"),
        (3840.0, "1 h 4 min"),
    ],
)
def test_duration(seconds: float, shown: str) -> None:
    assert formatting.duration(seconds) == shown


def test_milliseconds_keep_three_digits() -> None:
    values = [0.28023, 3.1, 123.4, 1234.0]
    assert [formatting.milliseconds(v) for v in values] == [
        "0.280 ms",
        "3.10 ms",
        "123 ms",
        "1,234 ms",
    ]


def test_change_has_a_sign_and_no_negative_zero() -> None:
    assert formatting.change(-50.06, "%") == "−50.1%"
    assert formatting.change(0.2, " points", 2) == "+0.20 points"
    assert formatting.change(-0.004, "%") == "±0%"


def test_budget_tells_fractions_from_counts() -> None:
    assert (
        quantities.shown_limits({"macs": 0.5, "params": 1_200_000})
        == "MACs ≤ 50%, parameters ≤ 1.20 M"
    )
    assert quantities.shown_limits({"macs": 1.0}) == "MACs ≤ 100%"
    assert quantities.shown_limits({}) == "no budget"
    assert quantities.shown_limits({"macs": (0.3, 0.8)}) == "MACs ≤ 30% to 80%"
    assert (
        quantities.shown_limits({"params": (200_000, 1_200_000)}) == "parameters ≤ 200 k to 1.20 M"
    )


def test_bounds_as_a_user_writes_them() -> None:
    limits: dict[str, formatting.Bound] = {
        "macs": (0.3, 0.8),
        "params": 1_200_000,
        "latency_us": 900,
    }
    assert [quantities.written_bound(*x) for x in limits.items()] == ["0.3:0.8", "1200000", "900us"]
    assert quantities.limits_name(limits) == "macs0.3-0.8-params1200000-latency900us"
    assert quantities.shown_limits({"latency_us": 12_300}) == "latency ≤ 12.3 ms"
