"""The main path: trace the network, walk the agent through it, keep the best plan.

    find units -> cost table -> budget -> environment -> agent -> best plan

Everything that a search writes goes into one run folder (:mod:`amc.run`) as it happens, so that an
interrupted run is a shorter one, not a lost one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from amc.agents import make_agent
from amc.agents.callbacks import JsonlRecorder, TensorBoardMonitor
from amc.agents.policy import Policy
from amc.budget import Budget, parse_budget
from amc.config import PRESET_EPISODES, PRESETS, SearchConfig
from amc.envs.make import make_env
from amc.envs.pruning import Episode
from amc.errors import ConfigError
from amc.plan import Plan, plan_of, weights_sha256
from amc.run import RunFolder
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
    budget: Budget
    interrupted: bool
    """Whether the user stopped the search before its last episode."""


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

    ``budget`` is a text like ``"flops=0.5 params=0.6"``; ``settings`` are fields of
    :class:`amc.config.SearchConfig` (``episodes``, ``seed``, ``agent``, ``preset``, ``reward``),
    or all of them come as one ``config``. ``run`` is a folder to create; without it nothing is
    written. Ctrl-C ends the search early, with the best plan so far. Raises :class:`ConfigError`
    for an unknown setting, :class:`BudgetError` for a budget out of reach, :class:`UnitError` where
    nothing can be pruned, and :class:`EvaluationError` where a quality is not a number.
    """
    config = config or make_config(budget, model=task.config, **settings)
    env = make_env(task, config, on_unit)
    agent = make_agent(config.agent, env, config.agent_settings, config.seed)
    units, cost = env.units, env.cost
    hash_of_weights = weights_sha256(task.model)
    history: list[Episode] = []
    best: list[Episode] = []

    def plan_for(episode: Episode) -> Plan:
        return plan_of(
            units,
            episode.widths,
            macs=(episode.macs, cost.dense_macs),
            params=(episode.params, cost.dense_params),
            weights_sha256=hash_of_weights,
            model=task.config,
            quality=episode.quality,
            input_shape=_shape(task.example_inputs),
        )

    with contextlib.ExitStack() as stack:
        folder = RunFolder.create(Path(run), config) if run is not None else None
        observers: list[Callable[[Episode], None]] = []
        if folder is not None:
            observers.append(stack.enter_context(JsonlRecorder(folder.episodes)))
            monitor = TensorBoardMonitor(
                folder.tensorboard, units, agent.diagnostics, config.hyperparameters()
            )
            observers.append(stack.enter_context(contextlib.closing(monitor)))

        since = time.perf_counter()

        def record(episode: Episode) -> None:
            nonlocal since
            now = time.perf_counter()
            spent = now - since - sum(episode.seconds.values())
            episode = replace(episode, seconds={**episode.seconds, "agent": spent})
            since = now
            history.append(episode)
            improved = not best or episode.reward > best[0].reward
            if improved:
                best[:] = [episode]
                if folder is not None:
                    plan_for(episode).save(folder.plan)
            for observe in observers:
                observe(episode)
            if on_episode is not None:
                on_episode(episode, best[0])

        interrupted = False
        try:
            agent.learn(config.episodes, record)
        except KeyboardInterrupt:
            if not best:
                raise
            interrupted = True
        if folder is not None and agent.policy is not None:
            agent.policy.save(folder.policy)
    return SearchResult(
        plan_for(best[0]), agent.policy, tuple(history), best[0], units, env.budget, interrupted
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
    if not limits and config.reward in ("kl", "accuracy", "cross_entropy"):
        raise ConfigError(
            f"reward {config.reward!r} alone keeps everything; give a budget such as flops=0.5, or "
            "a reward that weighs error against cost (amc-flops, amc-params)"
        )
    return config


def _shape(example_inputs: Any) -> tuple[int, ...] | None:
    return tuple(example_inputs.shape) if isinstance(example_inputs, Tensor) else None
