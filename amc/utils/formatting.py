"""Numbers as people read them: counts, fractions, changes, durations; and text on one line."""

from __future__ import annotations


def one_line(text: object, longest: int = 300) -> str:
    """``text`` without line breaks and control characters, cut after ``longest`` characters.

    For what comes from files and from other people's errors.
    """
    printable = "".join(x if x.isprintable() else " " for x in str(text)[: 10 * longest])
    line = " ".join(printable.split())
    return line if len(line) <= longest else f"{line[: longest - 3]}..."


def count(value: float) -> str:
    """Three significant digits and a suffix: ``9,999``, ``270 k``, ``20.4 M``, ``4.09 G``."""
    if value < 10_000:
        return f"{value:,.0f}"
    for exponent, suffix in ((3, "k"), (6, "M"), (9, "G")):
        scaled = float(f"{value / 10**exponent:.3g}")
        if scaled < 1000:
            return f"{_three_digits(scaled)} {suffix}"
    return f"{value / 10**12:,.3g} T"


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


def _three_digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")
