"""The main path: trace the network, walk the agent through it, keep the best plan.

    find units -> cost table -> budgets -> environment -> agent -> best plan (or a front of them)

Everything that a search writes goes into one run folder (:mod:`amc.run`) as it happens, so that an
interrupted run is a shorter one, not a lost one.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from amc.agents import Agent, make_agent
from amc.agents.callbacks import JsonlRecorder, TensorBoardMonitor
from amc.agents.policy import Policy
from amc.agents.replay import Replay
from amc.budget import Budgets, parse_budget
from amc.config import PRESET_EPISODES, PRESETS, SearchConfig
from amc.envs.make import make_env
from amc.envs.pruning import Episode, PruningEnv
from amc.errors import ConfigError
from amc.front import Front, merit, nondominated
from amc.plan import Plan, plan_of, weights_sha256
from amc.run import RunFolder, check_free
from amc.task import Task
from amc.units import Units

OnEpisode = Callable[[Episode, Episode], None]
"""Called after each episode with it and the best so far."""


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


def search(
    task: Task,
    budget: str | Sequence[str] | None = None,
    *,
    run: Path | str | None = None,
    config: SearchConfig | None = None,
    on_unit: Callable[[int, int], None] | None = None,
    on_episode: OnEpisode | None = None,
    **settings: Any,
) -> SearchResult:
    """Learn how much of each unit of ``task.model`` to keep under ``budget``, and keep the best.

    ``budget`` is a text like ``"flops=0.5 params=0.6"`` or ``"flops=0.3:0.8"``; ``settings`` are
    fields of :class:`amc.config.SearchConfig` (``episodes``, ``seed``, ``agent``, ``preset``,
    ``reward``, ``min_accuracy``, ``policy``), or all of them come as one ``config``. ``run`` is a
    folder to create; without it nothing is written. Ctrl-C ends the search early, with the best
    plan so far. Raises :class:`ConfigError` for an unknown setting, :class:`BudgetError` for a
    budget out of reach, :class:`UnitError` where nothing can be pruned, and
    :class:`EvaluationError` where a quality is not a number.
    """
    config = config or make_config(budget, model=task.config, **settings)
    if run is not None:
        check_free(Path(run))  # before the work, not after it
    policy = Policy.load(Path(config.policy)) if config.policy else None
    env = make_env(task, config, on_unit)
    agent = _make_agent(env, config, policy)
    with contextlib.ExitStack() as stack:
        folder = RunFolder.create(Path(run), config) if run is not None else None
        ledger = _Ledger(task, env, config, folder)
        if folder is not None:
            monitor = TensorBoardMonitor(
                folder.tensorboard, env.units, agent.diagnostics, config.hyperparameters()
            )
            for observer in (JsonlRecorder(folder.episodes), monitor):
                ledger.observers.append(stack.enter_context(contextlib.closing(observer)))
        if on_episode is not None:
            ledger.observers.append(lambda episode: on_episode(episode, ledger.best))
        interrupted = False
        try:
            _play(env, agent, config.episodes or sys.maxsize, ledger.record)
        except KeyboardInterrupt:
            if not ledger.history:
                raise
            interrupted = True
        if folder is not None and agent.policy is not None:
            agent.policy.save(folder.policy)
    return SearchResult(
        plan=ledger.plan(ledger.best),
        policy=agent.policy,
        history=tuple(ledger.history),
        best=ledger.best,
        units=env.units,
        budgets=env.budgets,
        interrupted=interrupted,
        front=ledger.front(),
    )


def _make_agent(env: PruningEnv, config: SearchConfig, policy: Policy | None) -> Agent:
    if policy is not None and not config.episodes:
        return Replay(env, policy)
    return make_agent(config.agent, env, config.agent_settings, config.seed, policy)


def _play(
    env: PruningEnv, agent: Agent, episodes: int, on_episode: Callable[[Episode], None]
) -> None:
    """Ask, evaluate, tell, until ``episodes`` are played or the agent has no other plan."""
    played = 0
    while played < episodes and (proposals := agent.ask(1)):
        done = [env.score(proposal) for proposal in proposals]
        agent.tell(done)
        for episode in done:
            on_episode(episode)
        played += len(done)


class _Ledger:
    """Keeps every episode, the best of them and their front, and these two on disk."""

    best: Episode

    def __init__(
        self, task: Task, env: PruningEnv, config: SearchConfig, folder: RunFolder | None
    ) -> None:
        self._task, self._env, self._config, self._folder = task, env, config, folder
        self._front: list[tuple[Episode, Plan]] = []
        self._sha256 = weights_sha256(task.model)
        self._since = time.perf_counter()
        self.history: list[Episode] = []
        self.observers: list[Callable[[Episode], None]] = []

    def record(self, episode: Episode) -> None:
        """Note an episode; what is neither projecting nor evaluating was the agent's own time."""
        now = time.perf_counter()
        agent_seconds = now - self._since - sum(episode.seconds.values())
        self._since = now
        episode = replace(episode, seconds={**episode.seconds, "agent": agent_seconds})
        if not self.history or merit(episode, self._config) > merit(self.best, self._config):
            self.best = episode
            if self._folder is not None:
                self.plan(episode).save(self._folder.plan)
        self.history.append(episode)
        if self._config.ranged:
            self._extend_front(episode)
        for observe in self.observers:
            observe(episode)

    def _extend_front(self, episode: Episode) -> None:
        front = nondominated([*(other for other, _ in self._front), episode], self._config)
        if episode not in front:
            return
        plans = {other.number: plan for other, plan in self._front}
        plans[episode.number] = self.plan(episode)
        self._front = [(other, plans[other.number]) for other in front]
        if self._folder is not None and (found := self.front()) is not None:
            found.save(self._folder.front)

    def front(self) -> Front | None:
        """The plans of the front, from the worst to the best; None under one budget."""
        if not self._config.ranged:
            return None
        dense = self._env.evaluate(self._env.units.dense_widths)
        plans = tuple(plan for _, plan in self._front)
        return Front(dense_quality=dict(dense), plans=plans)

    def plan(self, episode: Episode) -> Plan:
        """An episode as a plan."""
        inputs, cost = self._task.example_inputs, self._env.cost
        return plan_of(
            self._env.units,
            episode.widths,
            macs=(episode.macs, cost.dense_macs),
            params=(episode.params, cost.dense_params),
            weights_sha256=self._sha256,
            model=self._task.config,
            quality=episode.quality,
            input_shape=tuple(inputs.shape) if isinstance(inputs, Tensor) else None,
        )


def make_config(budget: str | Sequence[str] | None = None, **settings: Any) -> SearchConfig:
    """Settings of a search, its preset filled in; raises :class:`ConfigError` for a wrong one."""
    preset = settings.setdefault("preset", "default")
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; known are {', '.join(PRESETS)}")
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
