"""The pictures of a run's page: how the search got there, and how the plan's network recovered."""

from __future__ import annotations

from matplotlib.figure import Figure

from amc.cost import quantities
from amc.records.pareto_front import Front
from amc.records.run_record import Record
from amc.registry import REWARDS
from amc.reporting import figure_style, figures
from amc.reporting.html import Html, join, tag
from amc.reporting.tradeoff import draw_tradeoff
from amc.reporting.training_figure import finetune_figure
from amc.utils import formatting


def pictures_section(run: Record) -> Html:
    """The pictures side by side; empty where there are none."""
    tuned = run.results is not None and bool(run.results.epochs)
    searched = _search_figures(run) if run.episodes else []  # in stages, the searches are elsewhere
    parts = [*searched, *_recovery_figures(run)] if run.episodes or tuned else []
    if not parts:
        return Html("")
    return join(tag("h2", "How it got there"), tag("div", *parts, class_="grid"))


def _search_figures(run: Record) -> list[Html]:
    progress = _figure(
        "Reward by episode",
        f"Each dot is a plan; the line is the best so far. Reward: {_reward(run)}.",
        "progress",
        figures.progress_figure([episode.reward for episode in run.episodes]),
    )
    if run.front is not None:
        return [progress, _front(run, run.front)]
    return [progress, _tradeoff(run)]


def _front(run: Record, front: Front) -> Html:
    cost, scored = run.config.costs[0], "accuracy" in front.dense_quality
    name = "accuracy" if scored else run.config.signal
    plans = [(plan.kept[cost], plan.quality[name]) for plan in front.plans]
    drawn = figures.front_figure(
        (
            [e.kept[cost] for e in run.episodes],
            [e.quality[name] for e in run.episodes],
        ),
        ([kept for kept, _ in plans], [quality for _, quality in plans]),
        front.dense_quality.get(name),
        cost_label=f"{quantities.word(cost)} kept",
        quality_label=f"search-val {name.replace('_', '-')}",
    )
    caption = (
        "Every plan before finetuning, and those that no other beats in both cost and "
        f"{run.config.signal.replace('_', '-')}; the star is the dense network. "
    )
    return _figure("Cost against quality", caption, "front", drawn)


def _reward(run: Record) -> str:
    floor = run.config.min_accuracy
    if floor is None:
        return REWARDS.entry(run.config.reward).summary
    cost = quantities.word(run.config.minimise)
    return (
        f"1 minus the share of {cost} kept; below an accuracy of {floor:g}, minus what is missing"
    )


def _tradeoff(run: Record) -> Html:
    bounded = run.config.costs[0]
    drawn = draw_tradeoff(run.episodes, run.best, bounded)
    low, high = formatting.percent(drawn.low), formatting.percent(drawn.high)
    caption = (
        f"Every plan before finetuning, later ones stronger. They keep "
        f"{low if low == high else f'{low} to {high}'} of the {quantities.word(bounded)}. "
        f"The best is episode {run.episodes[run.best].number}."
    )
    return _figure("Cost against quality", caption, "tradeoff", drawn.figure)


def _recovery_figures(run: Record) -> list[Html]:
    results = run.results
    parts = []
    if results and results.epochs:
        dense, pruned = results.row("dense"), results.row("pruned")
        start = pruned.test_accuracy if pruned else None
        begun = f" Test began at {formatting.percent(start)}." if start is not None else ""
        drawn = finetune_figure(results.epochs, dense.test_accuracy if dense else None)
        caption = f"Accuracy after each epoch, and the learning rate.{begun}"
        parts.append(_figure("Finetuning", caption, "finetune", drawn))
    phases = _phases(run)
    total = formatting.duration(sum(phases.values()))
    drawn = figures.seconds_figure(phases)
    parts.append(_figure("Time", f"Wall time by phase, {total} in all.", "seconds", drawn))
    return parts


def _phases(run: Record) -> dict[str, float]:
    """Seconds: what episodes spent, and the finetuning."""
    sums: dict[str, float] = {}
    for episode in run.episodes:
        for name, value in episode.seconds.items():
            sums[name] = sums.get(name, 0.0) + value
    if run.results is not None and run.results.epochs:
        sums["finetune"] = sum(epoch.seconds for epoch in run.results.epochs)
    return sums


def _figure(title: str, caption: str, name: str, drawn: Figure) -> Html:
    svg = Html(figure_style.to_svg(drawn, name, f"{title}: {caption}"))
    return tag("figure", tag("figcaption", tag("strong", title), tag("p", caption)), svg)
