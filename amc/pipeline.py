"""The main path: trace the network, walk the agent through it, keep the best plan.

    find units -> cost table -> budgets -> environment -> agent -> best plan (or a front of them)

Everything that a search writes goes into one run folder (:mod:`amc.run`) as it happens, so that an
interrupted run is a shorter one, not a lost one, and can go on (:mod:`amc.resume`).
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from amc.agents import Agent, make_agent
from amc.agents.policy import Policy
from amc.agents.replay import PolicyWalks
from amc.budget import Budgets, parse_budget
from amc.config import PRESET_AGENT, PRESET_EPISODES, PRESETS, SearchConfig
from amc.envs.make import make_env
from amc.envs.pruning import Episode, PruningEnv
from amc.errors import ConfigError
from amc.front import Front
from amc.ledger import Ledger, OnEpisode
from amc.plan import Plan, weights_sha256
from amc.results import Confirmation
from amc.resume import Past, Replay
from amc.run import Inputs, RunFolder, check_free
from amc.scorer import Scorer
from amc.task import Task
from amc.timing.device import Device, OnStage
from amc.timing.model import LatencyModel
from amc.units import Units


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
    ``reward``, ``min_accuracy``, ``policy``), or all of them come as one ``config``. ``run`` is a
    folder to create; without it nothing is written. Ctrl-C ends the search early, with the best
    plan so far.

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
    with contextlib.ExitStack() as stack:
        inputs = _inputs(task)
        past = None
        if resume:
            past = _past(stack, run, inputs, budget=budget, config=config, **settings)
            config = past.config
            for note in past.notes():
                on_note(note)
        elif run is not None:
            check_free(Path(run))  # before the work, not after it
        config = config or make_config(budget, model=task.config, **settings)
        # What ranked the channels is recorded, whatever the default will be.
        config = config.model_copy(update={"importance": config.importance or task.importance})
        device, predict = None, None
        if config.timed:
            device = Device(task.model, task.example_inputs, config.latency, on_stage, on_note)
            config = _aligned(config, device)
            saved = past.folder.latency if past is not None else None
            predict = partial(device.latency_model, saved=saved)
        env = make_env(task, config, on_unit, predict)
        agent = _make_agent(env, config)
        replay = Replay(past)
        score = stack.enter_context(Scorer(env, config.workers, replay.known))
        if len(replay.episodes) < _limit(config):
            score.start()
        ledger = Ledger(task, env, config, inputs.weights_sha256, on_episode)
        episodes = _play(agent, config, score, replay)
        for episode in itertools.islice(episodes, len(replay.episodes)):
            ledger.record(episode)
        # What is recorded has been played again, to the bit: from here on files are changed.
        if past is not None:
            past.mend(ledger.best_plan() if ledger.history else None)
            ledger.write_to(past.folder, agent, stack)
        elif run is not None:
            folder = RunFolder.create(Path(run), config, inputs)
            stack.enter_context(folder.claimed())
            if isinstance(env.cost.latency, LatencyModel):
                env.cost.latency.save(folder.latency)
            ledger.write_to(folder, agent, stack)
        interrupted = False
        try:
            for episode in episodes:
                ledger.record(episode)
        except KeyboardInterrupt:
            if not ledger.history:
                raise
            interrupted = True
        ledger.finish(agent.policy)
        if device is not None and not interrupted:
            ledger.confirm(device, on_note)
    return SearchResult(
        plan=ledger.best_plan(),
        policy=agent.policy,
        history=tuple(ledger.history),
        best=ledger.best,
        units=env.units,
        budgets=env.budgets,
        interrupted=interrupted,
        front=ledger.front(),
        confirmation=ledger.confirmation,
    )


def _make_agent(env: PruningEnv, config: SearchConfig) -> Agent:
    policy = Policy.load(Path(config.policy)) if config.policy else None
    if policy is not None and not config.episodes:
        return PolicyWalks(env, policy)
    return make_agent(config.agent, env, config.agent_settings, config.seed, policy)


def _aligned(config: SearchConfig, device: Device) -> SearchConfig:
    """With the multiple that the device likes, as it is recorded: a resumed search asks no more."""
    if not config.align:
        return config
    return config.model_copy(update={"round_to": {"all": device.multiple()}, "align": False})


def _limit(config: SearchConfig) -> int:
    """Episodes at most; a policy that is only replayed ends by itself."""
    return config.episodes or sys.maxsize


def _play(agent: Agent, config: SearchConfig, score: Scorer, replay: Replay) -> Iterator[Episode]:
    """Ask, evaluate, tell, until all episodes are played or the agent has no other plan.

    The agent is always asked for a whole batch, even where the search ends within it: so a shorter
    search is the beginning of a longer one.
    """
    played = 0
    while played < _limit(config):
        asked = time.perf_counter()
        proposals = agent.ask(config.workers)[: _limit(config) - played]
        answered = time.perf_counter()
        replay.check(proposals, played)
        if not proposals:
            return
        done = replay.restore(score(proposals))
        told = time.perf_counter()
        agent.tell(done)
        spent = (answered - asked) + (time.perf_counter() - told)
        own = (spent - sum(proposal.project_seconds for proposal in proposals)) / len(done)
        for episode in done:
            # Of an episode that is played again, the recorded time stays.
            yield replace(episode, seconds={"agent": own} | episode.seconds)
        played += len(done)


def _inputs(task: Task) -> Inputs:
    data_sha256 = task.data_sha256() if task.data_sha256 else None
    return Inputs(weights_sha256=weights_sha256(task.model), data_sha256=data_sha256)


def _past(
    stack: contextlib.ExitStack, run: Path | str | None, inputs: Inputs, **given: Any
) -> Past:
    """The run that is to be resumed, claimed until ``stack`` ends."""
    if run is None:
        raise ConfigError("resume=True: give the folder of the run to resume, run=...")
    episodes = given.pop("episodes", None)
    others = [name for name, value in given.items() if value is not None]
    if others:
        raise ConfigError(
            f"{', '.join(others)}: a resumed search keeps the settings that it began with; "
            "only episodes can be given"
        )
    folder = RunFolder.open(Path(run))
    stack.enter_context(folder.claimed())
    return Past.load(folder, inputs, episodes)


def make_config(budget: str | Sequence[str] | None = None, **settings: Any) -> SearchConfig:
    """Settings of a search, its preset filled in; raises :class:`ConfigError` for a wrong one."""
    preset = settings.setdefault("preset", "default")
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
    settings.setdefault("agent", PRESET_AGENT[preset])
    settings.setdefault("agent_settings", PRESETS[preset])
    settings.setdefault("episodes", PRESET_EPISODES[preset])
    limits = parse_budget(budget) if budget else {}
    config = SearchConfig.parse({"budget": limits, **settings})
    aimless = not limits and config.min_accuracy is None
    if aimless and config.reward in ("kl", "accuracy", "cross_entropy"):
        raise ConfigError(
            f"reward {config.reward!r} alone keeps everything; give a budget such as flops=0.5, an "
            "accuracy to hold (min_accuracy), or a reward that weighs error against cost "
            "(amc-flops, amc-params)"
        )
    return config
