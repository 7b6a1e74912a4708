"""The page of a run: what came of it, in words, numbers and pictures, in one file."""

from __future__ import annotations

import shlex
from pathlib import Path

from amc.config import FinetuneConfig
from amc.cost import quantities
from amc.pruning.plan import Plan
from amc.records.pareto_front import Front
from amc.records.results import Results
from amc.records.run_folder import RunFolder
from amc.records.run_record import Record
from amc.registry import AGENTS
from amc.reporting import figure_style, figures
from amc.reporting.command_line import command_line, flatten, without_option
from amc.reporting.html import Html, join, page, table, tag
from amc.reporting.outcome import outcome, used_images
from amc.reporting.report_pictures import pictures_section
from amc.reporting.tables import compare, front_rows, measured_in
from amc.tracing.units import dense_widths
from amc.utils import formatting
from amc.utils.atomic_files import replacing

_NOTHING = Html("")


def write_report(run: Path) -> Path:
    """Write ``report.html`` into the run's folder, replacing an older one, and return its path.

    The page loads nothing: style and pictures are in it. A run that was interrupted, or not
    finetuned, gets a page that says so. Raises :class:`~amc.errors.RunError` where ``run`` is not
    the folder of a run or a record is damaged, and :class:`~amc.errors.PlanError` where its plan is
    missing or damaged.
    """
    document = _render(Record.load(run))
    target = RunFolder(run).report
    with replacing(target) as draft:
        draft.write_text(document, encoding="utf-8")
    return target


def _render(run: Record) -> str:
    name = run.path.resolve().name
    budget = _aim(run)
    header = tag(
        "header",
        tag("p", f"{budget} · {run.started.isoformat()} · {name}"),
        tag("h1", run.network),
        tag("p", _headline(run), class_="headline"),
    )
    body = join(
        header,
        _notes(run),
        _results_section(run.results) if run.results else _NOTHING,
        _front_section(run, run.front) if run.front else _NOTHING,
        _plan_section(run.plan) if run.plan else _NOTHING,
        pictures_section(run),
        _reproduce_section(run),
    )
    return page(f"{run.network}, {budget}", body)


def _aim(run: Record) -> str:
    """What was asked for."""
    floor, budget = run.config.min_accuracy, quantities.shown_limits(run.config.budget)
    if floor is None:
        return budget
    held = f"accuracy ≥ {formatting.percent(floor)}"
    return f"{held}, {budget}" if run.config.budget else held


def _headline(run: Record) -> Html:
    """The result in one sentence."""
    plan, results = run.plan, run.results
    if plan is None:
        return Html("No episode has finished yet, so there is no plan to show.")
    kept = join(
        "Keeps ",
        _strong(formatting.percent(plan.kept["macs"])),
        " of the MACs and ",
        _strong(formatting.percent(plan.kept["params"])),
        " of the parameters",
    )
    last = results.rows[-1] if results and results.rows else None
    dense = results.row("dense") if results else None
    if last is None or last.test_accuracy is None or last.name == "dense":
        accuracy = plan.quality.get("accuracy")
        if accuracy is None:
            return join(kept, ".")
        before = " before finetuning."
        return join(kept, "; search-val accuracy ", _strong(formatting.percent(accuracy)), before)
    when = "" if last.name == "finetuned" else " before finetuning,"
    parts = [kept, "; test accuracy ", _strong(formatting.percent(last.test_accuracy)), when]
    if dense and dense.test_accuracy is not None:
        parts.append(f" against {formatting.percent(dense.test_accuracy)} dense")
    before_ms = results.time_ms(dense) if results and dense else None
    after_ms = results.time_ms(last) if results else None
    if before_ms and after_ms:
        parts += ["; ", _strong(f"{before_ms / after_ms:.2f}"), " times as fast"]
    return join(*parts, ".")


def _notes(run: Record) -> Html:
    """What a reader would expect and does not find, and how to get it."""
    asked, done = run.config.episodes, len(run.episodes)
    notes: list[str] = []
    floor = run.config.min_accuracy
    if floor is not None and done:
        reached = run.episodes[run.best].quality.get("accuracy", 0.0)
        held = "is held" if reached >= floor else "is held by none of the plans"
        notes.append(f"An accuracy of {floor:g} on search-val {held}; the plan has {reached:.4f}.")
    if run.confirmation is not None:
        notes.append(f"Latency: {run.confirmation}.")
        if run.confirmation.tightened:
            notes.append(
                f"The best plans missed the bound when they were measured; the one shown was "
                f"planned for {formatting.percent(run.confirmation.tightened[-1])} of it, after "
                f"the {done} episodes."
            )
    if 0 < done < asked and not _ends_by_itself(run.config.agent):
        notes.append(f"Stopped after {done} of {asked} episodes: the plan is the best of those.")
    if _stages(run) > 1:
        notes.append(f"Pruned in {_stages(run)} stages; each has a page of its own in stages/.")
    command = tag("code", shlex.join(["amc", "finetune", str(run.path)]))
    if done and run.results is None:
        missing = "Not measured yet: no test accuracy, no latency. "
        notes.append(join(missing, command, " prunes the network, measures and finetunes it."))
    elif run.results and not run.results.epochs:
        notes.append(join("Not finetuned. ", command, " recovers accuracy."))
    return tag("ul", *(tag("li", note) for note in notes), class_="notes") if notes else _NOTHING


def _results_section(results: Results) -> Html:
    head = ["", *(row.name.capitalize() for row in results.rows)]
    rows: list[list[str]] = [
        [label, *(join(cell.value, *(tag("small", note) for note in cell.notes)) for cell in cells)]
        for label, cells in compare(results)
    ]
    note = (
        "Changes are relative to the dense network. Latency: median and interquartile range of one"
        f" forward, the networks in turns, in {measured_in(results)}. The sliced network equals its"
        f" masked twin to a relative error of {results.verified_error:.1e}. {used_images(results)}"
    )
    return join(
        tag("h2", "Result"),
        table(head, rows, "results"),
        tag("p", note.strip(), class_="note"),
        _outcome(results),
    )


def _outcome(results: Results) -> Html:
    """What came of the finetuning, and what was chosen for the user."""
    said = [
        join(tag("strong", name.capitalize()), f": {text}.")
        for name, text in outcome(results).items()
    ]
    said += [join(tag("strong", "Note"), f": {text}") for text in results.notes]
    return tag("ul", *(tag("li", one) for one in said), class_="notes") if said else _NOTHING


def _plan_section(plan: Plan) -> Html:
    names, widths = [unit.name for unit in plan.units], plan.widths()
    dense = dense_widths(plan.units)
    description = f"Kept against dense width of {len(names)} units"
    pictures = []
    for compact in (False, True):
        kind = "narrow" if compact else "wide"
        drawn = figures.plan_figure(names, dense, widths, compact=compact)
        svg = Html(figure_style.to_svg(drawn, f"plan-{kind}", description))
        pictures.append(tag("div", svg, class_=kind))
    rows: list[list[str]] = [
        [
            unit.name,
            str(unit.width),
            str(kept),
            formatting.percent(kept / unit.width, 0),
            _bar(kept, unit.width),
        ]
        for unit, kept in zip(plan.units, widths, strict=True)
    ]
    caption = "How many channels (or groups of channels) of each unit are kept, in forward order."
    if plan.quality:
        scores = (
            f"{key.replace('_', '-')} {formatting.number(value)}"
            for key, value in plan.quality.items()
        )
        caption += f" On search-val, before finetuning: {', '.join(scores)}."
    return join(
        tag("h2", "Best plan"),
        tag("figure", tag("figcaption", tag("p", caption)), *pictures),
        tag(
            "details",
            tag("summary", "The plan as a table ", tag("span", f"({len(rows)} units)")),
            table(["Unit", "Dense", "Kept", "Keep", ""], rows, "plan"),
        ),
    )


def _front_section(run: Record, front: Front) -> Html:
    head, rows = front_rows(front)
    command = tag("code", shlex.join(["amc", "finetune", str(run.path), "--budget", "flops=0.42"]))
    note = join("Before finetuning. ", command, " takes the best of them within a budget.")
    return join(tag("h2", "Plans to choose from"), table(head, rows, "front"), tag("p", note))


def _reproduce_section(run: Record) -> Html:
    recipe = _recipe(run.results) if run.results else run.config.finetune
    if _stages(run) > 1:  # what was recorded last is the last stage's
        recipe = run.config.finetune
    command = command_line(run.config, recipe)
    if command is None:
        again = tag("p", "This run was given Python objects: no command line describes it.")
    else:
        again = tag("pre", tag("code", command))
    others = without_option(run.config, recipe) if command else {}
    beyond = ", ".join(f"{key} = {_value(value)}" for key, value in others.items())
    known = " · ".join(f"{name} {value}" for name, value in run.versions.items())
    settings = flatten(run.config.model_dump(mode="json", exclude_none=True))
    rows: list[list[str]] = [[key, _value(value)] for key, value in settings.items()]
    return join(
        tag("h2", "Reproduce"),
        again,
        tag("p", f"Also set: {beyond}.", class_="note") if beyond else _NOTHING,
        tag("p", f"Made with {known}.", class_="note") if known else _NOTHING,
        tag(
            "details",
            tag("summary", "All settings ", tag("span", "(config.toml)")),
            table([], rows, "pairs"),
        ),
    )


def _stages(run: Record) -> int:
    return run.config.finetune.stages if run.config.finetune is not None else 1


def _recipe(results: Results) -> FinetuneConfig:
    return results.recipe or FinetuneConfig(epochs=len(results.epochs))


def _bar(kept: int, dense: int) -> Html:
    inner = tag("span", style=f"width:{100 * kept / dense:.1f}%")
    return tag("div", inner, class_="bar")


def _value(value: object) -> str:
    return ", ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def _strong(value: str) -> Html:
    return tag("strong", value)


def _ends_by_itself(agent: str) -> bool:
    """Whether the agent stops where it has no new plan: nothing in it is random."""
    return agent in AGENTS and not AGENTS.entry(agent).traits["seeded"]
