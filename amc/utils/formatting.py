"""Numbers as people read them: counts, fractions, changes, durations, budgets."""

from __future__ import annotations

from collections.abc import Mapping

QUANTITY = {"macs": "MACs", "params": "parameters", "latency_us": "latency"}
"""The word for each cost."""


def count(value: float) -> str:
    """Three significant digits and a suffix: ``9,999``, ``270 k``, ``20.4 M``, ``4.09 G``."""
    if value < 10_000:
        return f"{value:,.0f}"
    for exponent, suffix in ((3, "k"), (6, "M"), (9, "G")):
        scaled = float(f"{value / 10**exponent:.3g}")
        if scaled < 1000:
            return f"{_three_digits(scaled)} {suffix}"
    return f"{value / 10**12:,.3g} T"


def amount(quantity: str, value: float) -> str:
    """A cost in full: ``20,317,440``, or of ``latency_us`` three digits, ``12.3 ms``."""
    return milliseconds(value / 1e3) if quantity == "latency_us" else f"{value:,.0f}"


def percent(fraction: float, digits: int = 1) -> str:
    """``0.4987`` as ``49.9%``."""
    return f"{100 * fraction:.{digits}f}%"


def change(difference: float, unit: str, digits: int = 1) -> str:
    """A signed number with a true minus sign: ``−50.1%``, ``+0.20 points``, ``±0%``."""
    size = f"{abs(difference):.{digits}f}"
    if float(size) == 0:
        return f"±0{unit}"
    return f"{'−' if difference < 0 else '+'}{size}{unit}"


def number(value: float) -> str:
    """Three significant digits, with a true minus sign: ``−0.816``."""
    return f"{value:.3g}".replace("-", "−")


def duration(seconds: float) -> str:
    """Two parts at most: ``0.42 s``, ``12.3 s``, ``12 min 3 s``, ``1 h 4 min``."""
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 0.995 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def milliseconds(value: float) -> str:
    """Three significant digits: ``0.280 ms``, ``12.3 ms``."""
    return f"{_three_digits(value)} ms" if value < 999.5 else f"{value:,.0f} ms"


Bound = float | int | tuple[float | int, float | int]
"""An upper bound on a cost or the ends of a range: fractions (floats) or counts (integers, of
latency in microseconds)."""


def budget(limits: Mapping[str, Bound]) -> str:
    """``{"macs": (0.3, 0.8), "params": 1200000}`` as ``MACs ≤ 30% to 80%, parameters ≤ 1.20 M``."""
    parts = []
    for name, bound in limits.items():
        ends = bound if isinstance(bound, tuple) else (bound,)
        shown = [_limit(name, x) for x in ends]
        parts.append(f"{QUANTITY.get(name, name)} ≤ {' to '.join(shown)}")
    return ", ".join(parts) or "no budget"


def _limit(name: str, value: float | int) -> str:
    if isinstance(value, float):
        return f"{100 * value:.4g}%"
    return milliseconds(value / 1e3) if name == "latency_us" else count(value)


def bound(name: str, value: Bound) -> str:
    """As a user writes it: ``0.5``, ``0.3:0.8``, ``1200000``, of latency ``12000us``."""
    unit = "us" if name == "latency_us" else ""
    ends = value if isinstance(value, tuple) else (value,)
    return ":".join(f"{end}{unit}" if isinstance(end, int) else str(end) for end in ends)


def limits_name(limits: Mapping[str, Bound]) -> str:
    """``{"macs": (0.3, 0.8), "params": 0.5}`` as ``macs0.3-0.8-params0.5``, for a folder."""
    return "-".join(
        f"{name.removesuffix('_us')}{bound(name, x).replace(':', '-')}"
        for name, x in limits.items()
    )


def _three_digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")
