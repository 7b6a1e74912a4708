"""The zoo's results as one readable page."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

Result = dict[str, Any]

HEADINGS = (
    *("network", "forward s", "trace s", "find s", "find, MB", "units", "frozen channels"),
    *("proven alone", "MACs in reach", "worst error", "costs exact", "MACs at .5", "slice ms"),
    *("torch-pruning", "its s", "its MACs"),
)


def page(results: list[Result]) -> str:
    """The Markdown page: a summary, the table, why channels are frozen, what went wrong."""
    notes = _Notes()
    rows = [_row(result, notes) for result in results]
    return "\n".join(
        [
            "# The zoo",
            "",
            "Made by `benchmarks/zoo.py`, whose docstring says how to read it.",
            f"Code as of commit {_tally(r['commit'] for r in results)}. One thread; CPU seconds.",
            "",
            *_summaries(results),
            _line(HEADINGS),
            _line(["---", *["---:"] * (len(HEADINGS) - 1)]),
            *map(_line, rows),
            "",
            "Frozen channels, without those of the network's inputs and outputs, by reason:",
            "",
            *(f"{number}. {reason}" for reason, number in notes.numbers.items()),
            "",
            *_failures(results),
            "",
        ]
    )


def plans_of(result: Result) -> list[Result]:
    """The random plans that were tried on a network."""
    plans: list[Result] = result.get("plans", [])
    return plans


def exact(result: Result) -> bool | None:
    """Whether every counted cost of every plan was exact; None where none was counted."""
    plans = plans_of(result)
    offs = [p[key] for p in plans for key in ("macs_off", "params_off") if key in p]
    return not any(offs) if offs else None


def worst_error(result: Result) -> float | None:
    """The largest error of the plans that ran."""
    return max((p["error"] for p in plans_of(result) if "error" in p), default=None)


class _Notes:
    """Reasons, numbered as they come."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def number(self, reason: str) -> int:
        return self.numbers.setdefault(reason, len(self.numbers) + 1)


def _row(result: Result, notes: _Notes) -> list[str]:
    peer = result.get("peer", {})
    slices = [plan["slice_cpu_seconds"] for plan in plans_of(result)]
    verified = result["outcome"] == "verified"
    counted = exact(result)
    return [
        result["network"] + ("" if verified else f" (**{result['outcome']}**)"),
        _number(result.get("forward_cpu_seconds"), ".2f"),
        _number(result.get("read_cpu_seconds"), ".2f"),
        _number(result.get("find_cpu_seconds"), ".1f"),
        _number(result.get("find_mb"), ".0f"),
        _number(result.get("units"), "d"),
        _frozen(result, notes),
        _alone(result),
        _number(result.get("prunable_macs_share"), ".1%"),
        _number(worst_error(result), ".0e"),
        {None: "", True: "yes", False: f"**no** ({_largest_off(result):+,})"}[counted],
        _number(result.get("half_macs_share"), ".3f"),
        _number(statistics.median(slices) * 1000 if slices else None, ".0f"),
        peer.get("outcome", ""),
        _number(peer.get("cpu_seconds"), ".1f"),
        _number(peer.get("macs_share"), ".3f"),
    ]


def _alone(result: Result) -> str:
    """How many units were proven one by one, of those that time allowed to try."""
    if "alone" not in result:
        return ""
    tried, failed = result["alone"]["tried"], len(result["alone"]["failures"])
    return f"{tried - failed} of {tried}"


def _frozen(result: Result, notes: _Notes) -> str:
    """How many channels are frozen within the network, with the numbers of the reasons."""
    inner = _inner_frozen(result)
    if "frozen" not in result:
        return ""
    numbers = sorted({notes.number(_short(reason)) for reason in inner})
    marks = f" ({', '.join(map(str, numbers))})" if numbers else ""
    return f"{sum(inner.values()):,}{marks}"


def _inner_frozen(result: Result) -> dict[str, int]:
    frozen: dict[str, int] = result.get("frozen", {})
    ends = ("network output", "network input")
    return {reason: count for reason, count in frozen.items() if reason not in ends}


def _short(reason: str) -> str:
    """The reason without the numbers that differ from unit to unit; lines of code stay."""
    return re.sub(r"(?<!\.py:)\b\d[\d.]*(e[+-]\d+)?", "#", reason).replace("|", "\\|")


def _largest_off(result: Result) -> int:
    offs = [p.get(key, 0) for p in plans_of(result) for key in ("macs_off", "params_off")]
    return max(offs, key=abs, default=0)


def _summaries(results: list[Result]) -> list[str]:
    """What the table comes to, family by family."""
    families: dict[str, list[Result]] = {}
    for result in results:
        families.setdefault(result["network"].partition(":")[0], []).append(result)
    parts = ([f"{name}:", "", *_summary(members), ""] for name, members in families.items())
    return [line for part in parts for line in part]


def _summary(results: list[Result]) -> list[str]:
    errors = [error for error in map(worst_error, results) if error is not None]
    counts = [known for known in map(exact, results) if known is not None]
    frozen = [r for r in results if "frozen" in r]
    whole = sum(not _inner_frozen(r) for r in frozen)
    lines = [
        f"- {len(results)} networks: {_tally(r['outcome'] for r in results)}.",
        f"- Worst error of a random plan against its masked twin: {_number(max(errors), '.1e')} "
        f"of the largest output; median {_number(statistics.median(errors), '.1e')}."
        if errors
        else "- No plan ran.",
        f"- Costs exact: {sum(counts)} of {len(counts)}.",
        f"- Nothing but inputs and outputs frozen: {whole} of {len(frozen)}.",
        _spread(
            results, "MACs in layers that units can shrink", _get("prunable_macs_share"), ".1%"
        ),
        _spread(results, "Tracing, in dense forwards", _over("read_cpu_seconds"), ".1f"),
        _spread(results, "Finding the units, in dense forwards", _over("find_cpu_seconds"), ".0f"),
        _spread(results, "Finding the units, CPU seconds", _get("find_cpu_seconds"), ".1f"),
        _spread(results, "Memory that finding adds, over what a forward adds", _added, ".1f"),
        _spread(results, "Peak memory of the process, finding over forward", _peak, ".2f"),
        _spread(results, "Signal", _get("signal"), ".3f"),
    ]
    peers = [result["peer"] for result in results if "peer" in result]
    if peers:
        lines.append(f"- torch-pruning: {_tally(peer['outcome'] for peer in peers)}.")
    return lines


def _tally(words: Iterable[str]) -> str:
    return ", ".join(f"{count} {word}" for word, count in Counter(words).most_common())


def _get(key: str) -> Callable[[Result], float | None]:
    return lambda result: result.get(key)


def _over(key: str) -> Callable[[Result], float | None]:
    return lambda r: r[key] / r["forward_cpu_seconds"] if key in r else None


def _added(result: Result) -> float | None:
    """The memory that finding the units adds to the process, over what a forward adds."""
    ours, forward = result.get("find_mb"), result.get("forward_mb")
    return ours / forward if ours is not None and forward else None


def _peak(result: Result) -> float | None:
    """The same of the whole process, with libraries and weights."""
    if result.get("find_mb") is None:
        return None
    ours, forward = (result[f"{x}_before_mb"] + result[f"{x}_mb"] for x in ("find", "forward"))
    return float(ours / forward)


def _spread(
    results: list[Result], title: str, value: Callable[[Result], float | None], form: str
) -> str:
    """Median and both ends of a quantity, with the networks at the ends."""
    known = sorted((v, r["network"]) for r in results if (v := value(r)) is not None)
    if not known:
        return f"- {title}: not measured."
    (low, lowest), (high, highest) = known[0], known[-1]
    middle = statistics.median(v for v, _ in known)
    return (
        f"- {title}: median {middle:{form}}, from {low:{form}} ({lowest}) to {high:{form}} "
        f"({highest})."
    )


def _failures(results: list[Result]) -> list[str]:
    """What amc, and what torch-pruning, said where it did not work."""
    lines = ["Where something did not work:", ""]
    for result in results:
        differing = [_difference(plan) for plan in plans_of(result) if not plan["verified"]]
        for message in (result.get("error"), *differing):
            if message:
                lines.append(f"- {result['network']}: {message}")
        peer = result.get("peer", {})
        if peer.get("outcome", "works") != "works":
            off = f"off by {peer['off']:.1e}" if peer.get("off") is not None else ""
            lines.append(
                f"- {result['network']}, torch-pruning {peer['outcome']}: "
                f"{peer.get('error', off)}".rstrip(": ")
            )
    return lines


def _difference(plan: Result) -> str:
    what = plan.get("failure") or f"differs by {plan['error']:.1e} of the largest output"
    return f"the plan that keeps about {plan['keep']}: {what}"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
