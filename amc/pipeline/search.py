"""The main path: trace the network, let an agent plan it, keep the best plan.

| what happens                | where |
|-----------------------------|-------|
| the network is traced       | :mod:`amc.tracing`, by :func:`amc.pruning.find_units.read_units` |
| its units are proven        | :mod:`amc.pruning.slicing.unit_checks` |
| where a search begins       | :mod:`amc.envs.reference_plan`, from :mod:`amc.envs.make` |
| a plan is proposed          | the agent's ``ask``: :mod:`amc.agents` |
| it is put on the budget     | :mod:`amc.cost.projection`, by :mod:`amc.envs.problem` |
| it is cut                   | :func:`amc.pruning.slicing.slice.slice_model` |
| it is scored                | the task's ``evaluate``: :mod:`amc.vision.evaluator` |
| the agent is told           | :mod:`amc.pipeline.loop` |
| it is recorded              | :mod:`amc.pipeline.history`, in :mod:`amc.records` |
| the best one is cut for good, proven, trained and saved | :mod:`amc.pipeline.recovery` |

Everything that a search writes goes into one run folder as it happens, so that an interrupted run
is a shorter one, not a lost one, and can go on (:mod:`amc.pipeline.resume`).
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amc.agents.baselines.fixed_plans import Replayed
from amc.agents.policy import Policy
from amc.agents.registry import Agent, make_agent
from amc.config import SearchConfig
from amc.cost.budget import Budgets, parse_budget
from amc.envs.problem import PruningProblem
from amc.errors import ConfigError
from amc.latency.device import OnStage
from amc.pipeline.assignment import (
    Assignment,
    Listener,
    OnEpisode,
    inputs_of,
    prepared,
    resumed,
)
from amc.pipeline.loop import SearchLoop, in_turn, play_recorded, play_rest
from amc.pipeline.setup import prepare
from amc.pipeline.source import Source, find_source
from amc.presets import PRESETS
from amc.pruning.plan import Plan
from amc.records.episode import Episode
from amc.records.pareto_front import Front
from amc.records.results import Confirmation
from amc.records.run_folder import TRAINING, check_free
from amc.registry import REWARDS
from amc.task import Task
from amc.tracing.units import Units


@dataclass(frozen=True, eq=False)
class SearchResult:
    """What a search found."""

    plan: Plan
    policy: Policy | None
    """The trained actor; None where the searcher has none (uniform, random)."""
    history: tuple[Episode, ...]
    best: Episode
    units: Units
    budgets: Budgets
    interrupted: bool
    """Whether the user stopped the search before its last episode."""
    front: Front | None = None
    """The plans worth having, where plans of this search differ in cost; None under one budget."""
    confirmation: Confirmation | None = None
    """The measured latency of the best plan, where latency had a part in the search."""


def search(
    task: Task,
    budget: str | Sequence[str] | None = None,
    *,
    start: Source | Policy | Plan | Path | str | None = None,
    run: Path | str | None = None,
    resume: bool = False,
    config: SearchConfig | None = None,
    on_unit: Callable[[int, int], None] | None = None,
    on_stage: OnStage | None = None,
    on_episode: OnEpisode | None = None,
    on_note: Callable[[str], None] = warnings.warn,
    **settings: Any,
) -> SearchResult:
    """Learn how much of each unit of ``task.model`` to keep under ``budget``, and keep the best.

    ``budget`` is a text like ``"flops=0.5 params=0.6"`` or ``"flops=0.3:0.8"``; ``settings`` are
    fields of :class:`amc.config.SearchConfig` (``episodes``, ``seed``, ``agent``, ``preset``,
    ``reward``, ``min_accuracy``), or all of them come as one ``config``. ``start`` is where the
    search begins, if not at the reference plan: a policy or a plan from elsewhere, or where one is
    (:func:`amc.pipeline.source.find_source`); see :func:`amc.replay`. ``run`` is a folder to
    create; without it nothing is written. Ctrl-C ends the search early, with the best plan so far.

    ``resume=True`` goes on with the interrupted search in ``run``, with the settings that it began
    with: its episodes are played again from the record, without an evaluation, and those that
    follow are the ones that it would have had. Only ``episodes`` may be given with it, to make the
    search longer. ``on_note`` is told what the user should know: of a damaged record, of other
    library versions.

    Raises :class:`ConfigError` for an unknown setting, :class:`BudgetError` for a budget out of
    reach, :class:`UnitError` where nothing can be pruned, :class:`EvaluationError` where a quality
    is not a number, and :class:`RunError` where ``run`` is taken, or cannot be resumed with this
    task.
    """
    tell = Listener(on_unit, on_stage, on_episode, on_note)
    with contextlib.ExitStack() as stack:
        if resume:
            given = {"budget": budget, "config": config, "start": start}
            assignment, source = _going_on(stack, task, run, {**given, **settings}, tell)
        else:
            if run is not None:
                check_free(Path(run))  # before the work, not after it
            assignment, source = _beginning(task, budget, start, config, settings)
        assignment, problem, device = prepare(assignment, tell)
        agent = _agent(problem, assignment.config, source)
        loop = stack.enter_context(SearchLoop(assignment, problem, agent, tell.on_episode))
        steps = in_turn([loop])
        play_recorded([loop], steps)
        folder = loop.write_to(Path(run) if run is not None else None)
        if folder is not None and source is not None and not resume:
            source.keep(folder.start)
        finished = play_rest([loop], steps)
        history, policy = loop.history, agent.policy
        policy = history.described(policy) if policy is not None else None
        history.finish(policy)
        if device is not None and finished:
            history.confirm(device, tell.on_note)
    return SearchResult(
        plan=history.best_plan(),
        policy=policy,
        history=tuple(history.episodes),
        best=history.best,
        units=problem.units,
        budgets=problem.budgets,
        interrupted=not finished,
        front=history.front(),
        confirmation=history.confirmation,
    )


def _beginning(
    task: Task,
    budget: str | Sequence[str] | None,
    start: Source | Policy | Plan | Path | str | None,
    config: SearchConfig | None,
    settings: dict[str, Any],
) -> tuple[Assignment, Source | None]:
    """A new search, and where it begins if not at the reference plan."""
    begin = config.start if start is None and config is not None else start
    source = find_source(begin) if begin is not None else None
    if config is None:
        found = {"start": source.name} if source is not None else {}
        config = make_config(budget, model=task.config, **found, **settings)
    return Assignment(task, prepared(config, task), inputs_of(task)), source


def _going_on(
    stack: contextlib.ExitStack,
    task: Task,
    run: Path | str | None,
    given: dict[str, Any],
    tell: Listener,
) -> tuple[Assignment, Source | None]:
    """The interrupted search in ``run``, claimed until ``stack`` ends, and where it began."""
    if run is None:
        raise ConfigError("resume=True: give the folder of the run to resume, run=...")
    others = [name for name, value in given.items() if name != "episodes" and value is not None]
    if others:
        raise ConfigError(
            f"{', '.join(others)}: a resumed search keeps the settings that it began with; "
            "only episodes can be given"
        )
    training = Path(run).resolve().parent.parent
    if (training / TRAINING).is_file():
        raise ConfigError(f"{run} is a part of a training on several networks; resume {training}")
    assignment = resumed(stack, task, Path(run), given.get("episodes"))
    assert assignment.recorded is not None
    for note in assignment.recorded.notes():
        tell.on_note(note)
    folder = assignment.recorded.folder
    return assignment, Source.kept(folder.start) if assignment.config.start else None


def _agent(problem: PruningProblem, config: SearchConfig, source: Source | None) -> Agent:
    start = source.start(problem) if source is not None else None
    if start is not None and not config.episodes:
        return Replayed(problem, start=start)
    settings = config.agent_settings.get(config.agent)
    return make_agent(config.agent, problem, settings, config.seed, start)


def make_config(budget: str | Sequence[str] | None = None, **settings: Any) -> SearchConfig:
    """Settings of a search, its preset filled in; raises :class:`ConfigError` for a wrong one."""
    preset = settings.setdefault("preset", "default")
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
    settings.setdefault("agent", PRESETS[preset].agent)
    settings.setdefault("episodes", PRESETS[preset].episodes)
    limits = parse_budget(budget) if budget else {}
    config = SearchConfig.parse({"budget": limits, **settings})
    aimless = not limits and config.min_accuracy is None
    if aimless and REWARDS.entry(config.reward).traits["cost"] is None:
        raise ConfigError(
            f"reward {config.reward!r} alone keeps everything; give a budget such as flops=0.5, an "
            "accuracy to hold (min_accuracy), or a reward that weighs error against cost "
            "(amc-flops, amc-params)"
        )
    return config
