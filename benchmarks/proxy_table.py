"""Rank correlation of what plans score before finetuning with what they reach after it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from proxy_scores import COUNTS, METRICS, MODES

RESAMPLES = 2000
DEFAULT = ("recalibrated", "kl", 1000)
"""The search's reward: mode, metric, images."""


@dataclass(frozen=True, eq=False)
class Proxy:
    """One way to score plans, and how well its ranking agrees with the finetuned one."""

    key: tuple[str, str, int]
    """Mode, metric, images."""
    scores: np.ndarray
    """(plans,) higher is better."""
    rho: float
    """Spearman's correlation with the finetuned test accuracy."""
    resampled: np.ndarray
    """(RESAMPLES,) the same over plans drawn with replacement, the same draws for every proxy."""

    @property
    def name(self) -> str:
        """``kl, recalibrated, 1000 images``."""
        mode, metric, count = self.key
        return f"{metric}, {mode}, {count} images"


def write_report(tuned: list[dict[str, Any]], scored: list[dict[str, Any]], stem: Path) -> str:
    """Write ``stem``.md and, of the best proxy, ``stem``.svg; returns the Markdown.

    ``tuned``: finetuned plans (of several seeds: averaged); ``scored``: plans with their scores.
    """
    accuracies: dict[tuple[int, ...], list[float]] = {}
    sources = {tuple(line["widths"]): line["source"] for line in tuned}
    for line in tuned:
        accuracies.setdefault(tuple(line["widths"]), []).append(line["test_accuracy"])
    scores = {tuple(line["widths"]): line["scores"] for line in scored}
    plans = [widths for widths in accuracies if widths in scores]
    if len(plans) < 5:
        raise SystemExit(f"{len(plans)} plans are finetuned and scored: too few to rank")
    reached = np.array([np.mean(accuracies[widths]) for widths in plans])
    proxies = list(_proxies([scores[widths] for widths in plans], reached))
    text = _markdown(proxies, reached, tuned[0]["epochs"])
    stem.with_suffix(".md").write_text(text)
    best = max(proxies, key=lambda proxy: proxy.rho)
    _scatter(best, reached, [sources[widths].split()[0] for widths in plans], stem)
    return text


def _proxies(scores: list[dict[str, Any]], reached: np.ndarray) -> Iterator[Proxy]:
    generator = np.random.default_rng(0)
    draws = generator.integers(len(reached), size=(RESAMPLES, len(reached)))
    for mode in MODES:
        for metric in METRICS:
            for place, count in enumerate(COUNTS):
                values = np.array([plan[mode][metric][place] for plan in scores])
                values = values if metric == "accuracy" else -values
                resampled = np.array([spearman(values[draw], reached[draw]) for draw in draws])
                rho = spearman(values, reached)
                yield Proxy((mode, metric, count), values, rho, resampled)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of the ranks; 0 where one of the two does not vary."""
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale else 0.0


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    shared: np.ndarray = np.cumsum(counts) - (counts - 1) / 2
    return shared[inverse]


def _markdown(proxies: list[Proxy], reached: np.ndarray, epochs: int) -> str:
    by_key = {proxy.key: proxy for proxy in proxies}
    lines = [
        f"Spearman correlation of a score before finetuning with the test accuracy after {epochs} "
        f"epoch(s), over {len(reached)} plans (test accuracy {reached.min():.3f} to "
        f"{reached.max():.3f}). In brackets: 95% of {RESAMPLES} bootstrap resamples of the plans.",
        "",
        "| metric | BatchNorm and weights | " + " | ".join(f"{n} images" for n in COUNTS) + " |",
        "|---|---|" + "---|" * len(COUNTS),
    ]
    for metric in METRICS:
        for mode in MODES:
            of_row = [by_key[mode, metric, count] for count in COUNTS]
            cells = [f"{proxy.rho:.2f} {_interval(proxy.resampled)}" for proxy in of_row]
            lines.append(f"| {metric} | {mode} | {' | '.join(cells)} |")
    default = by_key[DEFAULT]
    lines += [
        "",
        f"Less that of the search's reward ({default.name}), over the same resamples; and what the "
        f"plan that each likes best reaches (the best of all: {reached.max():.4f}).",
        "",
        "| score | difference | its favourite reaches |",
        "|---|---|---|",
    ]
    for proxy in sorted(proxies, key=lambda proxy: -proxy.rho):
        if proxy.key[2] == DEFAULT[2]:
            difference = _interval(proxy.resampled - default.resampled)
            favourite = reached[int(np.argmax(proxy.scores))]
            lines.append(
                f"| {proxy.name} | {proxy.rho - default.rho:+.2f} {difference} | {favourite:.4f} |"
            )
    return "\n".join(lines) + "\n"


def _interval(resampled: np.ndarray) -> str:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return f"({low:.2f} to {high:.2f})"


def _scatter(proxy: Proxy, reached: np.ndarray, kinds: list[str], stem: Path) -> None:
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.subplots()
    sign = 1 if proxy.key[1] == "accuracy" else -1
    for kind in dict.fromkeys(kinds):
        chosen = np.array([k == kind for k in kinds])
        axes.scatter(sign * proxy.scores[chosen], 100 * reached[chosen], s=16, label=kind)
    axes.set_xlabel(f"before finetuning: {proxy.name}")
    axes.set_ylabel("test accuracy after finetuning, %")
    axes.set_title(f"Spearman {proxy.rho:.2f}", fontsize=10)
    axes.legend(frameon=False, title="plans")
    figure.savefig(stem.with_suffix(".svg"))
