"""Searchers side by side at equal numbers of evaluations: run what is missing, then report.

The images that score a plan are the same for all searches: only the search varies. Everything is
in one folder, so that a comparison that was interrupted goes on where it stopped, and may be given
more agents and seeds later.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from amc.comparison.job_pool import Failure, MakeTask, Progress, work
from amc.comparison.jobs import Job, Outcome, all_jobs, read_outcomes, write_outcomes
from amc.comparison.settings import CompareConfig
from amc.comparison.statistics import Comparison, stand
from amc.config import sign_of
from amc.errors import RunError
from amc.records.run_folder import versions
from amc.reporting import figure_style, figures
from amc.utils.atomic_files import replacing
from amc.utils.settings import load_toml, save_toml

OnAgent = Callable[[str, int, int, str], None]
"""Hears after every plan: an agent, its plans evaluated, their total, and how it stands."""


class CompareFolder:
    """Paths inside a comparison's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.outcomes = path / "runs.jsonl"
        self.page = path / "compare.md"
        self.pictures = (path / "compare.svg", path / "compare.png")


def compare(
    make_task: MakeTask,
    config: CompareConfig,
    run: Path,
    *,
    workers: int | None = None,
    on_agent: OnAgent | None = None,
    on_note: Callable[[str], None] = warnings.warn,
) -> Comparison:
    """Search with every agent and seed that ``run`` does not hold yet, and write the comparison.

    ``workers`` processes (None: one for each core; on a GPU one) each build the task by
    ``make_task()``, which must then pickle, and compute with one thread; a single one works here.
    ``on_note`` is told of failures as they happen. When the comparison is stopped, what is done is
    written. Raises :class:`RunError` where ``run`` holds
    something else, and where a search failed, after all others are done.
    """
    folder = _open(run, config)
    jobs = all_jobs(config)
    done = read_outcomes(folder.outcomes)
    write_outcomes(folder.outcomes, done)  # without a line that a crash has cut off
    tally = _Tally(config, jobs, on_agent)
    for outcome in done:
        tally.note(outcome.job, outcome)
    failures: list[str] = []
    with folder.outcomes.open("a", encoding="utf-8") as file:

        def on_event(job: Job, event: Progress | Outcome | Failure) -> None:
            if isinstance(event, Outcome):
                file.write(f"{event.model_dump_json()}\n")
                file.flush()
                done.append(event)
            if isinstance(event, Failure):
                failures.append(f"{job}: {event.message}")
                on_note(failures[-1])
            else:
                tally.note(job, event)

        known = {outcome.job for outcome in done}
        missing = [job for job in jobs if job not in known]
        try:
            if missing:
                work(make_task, config, missing, workers or _cores(config), on_event)
        finally:
            wanted = [outcome for outcome in done if outcome.job in jobs]
            comparison = stand(config, wanted)
            if wanted:
                write_comparison(folder, config, comparison)
    if failures:
        raise RunError(
            f"{len(failures)} of {len(jobs)} searches failed, the others are in {run}; "
            + "; ".join(failures)
        )
    return comparison


class _Tally:
    """How far each job is, summed up by agent for the display."""

    def __init__(self, config: CompareConfig, jobs: list[Job], on_agent: OnAgent | None) -> None:
        self._sign = sign_of(config.search.reward)
        self._on_agent = on_agent
        self._plans = dict.fromkeys(jobs, max(config.evaluations))
        self._evaluated = dict.fromkeys(jobs, 0)
        self._best: dict[str, float] = {}
        self._finished = Counter[str]()

    def note(self, job: Job, event: Progress | Outcome) -> None:
        if job not in self._plans or self._on_agent is None:
            return
        agent = job.agent
        best = event.best_reward if isinstance(event, Progress) else max(event.rewards)
        self._best[agent] = max(best, self._best.get(agent, best))
        if isinstance(event, Progress):
            self._evaluated[job] = event.evaluated
        else:
            self._evaluated[job] = self._plans[job] = len(event.rewards)
            self._finished[agent] += 1
        own = [one for one in self._plans if one.agent == agent]
        self._on_agent(
            agent,
            sum(self._evaluated[one] for one in own),
            sum(self._plans[one] for one in own),
            f"best {self._sign * self._best[agent]:.4g}, "
            f"{self._finished[agent]} of {len(own)} searches",
        )


def write_comparison(folder: CompareFolder, config: CompareConfig, comparison: Comparison) -> None:
    """Write the page and the pictures, replacing older ones."""
    figure = figures.comparison_figure(
        {one.agent: one.curves for one in comparison.agents}, comparison.quality
    )
    for path in folder.pictures:
        figure_style.save(figure, path)
    with replacing(folder.page) as draft:
        draft.write_text(_page(folder, config, comparison), encoding="utf-8")


def tables(comparison: Comparison) -> list[Table]:
    """Both tables for a terminal."""
    made = []
    for title, (head, lines) in _titled(comparison).items():
        table = Table(title=title, title_justify="left")
        for number, column in enumerate(head):
            table.add_column(column, justify="right" if number else "left")
        for line in lines:
            table.add_row(*(cell.replace(" (", "\n(") for cell in line))
        made.append(table)
    return made


def _titled(comparison: Comparison) -> dict[str, tuple[list[str], list[list[str]]]]:
    titled = {f"Best so far, median (range): {comparison.quality}": comparison.table()}
    if len(comparison.agents) > 1:
        titled["p, Wilcoxon's signed-rank test on pairs of seeds (two-sided, not corrected)"] = (
            comparison.significance_table()
        )
    return titled


def _page(folder: CompareFolder, config: CompareConfig, comparison: Comparison) -> str:
    search = config.search
    network = search.model.spec if search.model else "a network from Python"
    limits = ", ".join(f"{name}={limit}" for name, limit in search.budget.items())
    parts = [
        f"# {network}, {limits or 'no budget'}",
        f"![best so far against evaluated plans]({folder.pictures[0].name})",
    ]
    for title, (head, lines) in _titled(comparison).items():
        rule = ["---", *["---:"] * (len(head) - 1)]
        rows = [f"| {' | '.join(line)} |" for line in (head, rule, *lines)]
        parts += [f"{title}:", "\n".join(rows)]
    parts.append(
        "The numbers in the heads count evaluated plans; the picture shows medians and the middle "
        f"half of the seeds. Each plan is scored on {search.evaluate.images} images, the same for "
        "all searches. An agent without randomness is run once."
    )
    return "\n\n".join(parts) + "\n"


def _cores(config: CompareConfig) -> int:
    if config.search.device != "cpu":
        return 1
    # Those that this process may use, where the system tells.
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return len(usable) or os.cpu_count() or 1


def _open(run: Path, config: CompareConfig) -> CompareFolder:
    """The folder of this comparison, new or begun; more agents and seeds may have come."""
    folder = CompareFolder(run)
    if folder.config.is_file():
        values = load_toml(folder.config)
        values.pop("versions", None)
        before = type(config).parse(values, str(folder.config))
        same = before.search == config.search
        if not same or max(before.evaluations) != max(config.evaluations):
            raise RunError(
                f"{run} holds a comparison of other searches (see its config.toml); only agents, "
                "seeds and the evaluations before the last may change: choose another --run"
            )
    elif run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise RunError(f"{run} holds something else; choose another --run")
    run.mkdir(parents=True, exist_ok=True)
    save_toml(config, folder.config, versions=versions())
    return folder
