"""The main path: trace the network, walk the agent through it, keep the best plan.

    find units -> cost table -> budget -> environment -> agent -> best plan

Everything that a search writes goes into one run folder (:mod:`amc.run`) as it happens, so that an
interrupted run is a shorter one, not a lost one, and can go on (:mod:`amc.resume`).
"""

from __future__ import annotations

import contextlib
import itertools
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from amc.agents import Agent, make_agent
from amc.agents.callbacks import JsonlRecorder, TensorBoardMonitor
from amc.agents.policy import Policy
from amc.budget import Budget, parse_budget
from amc.config import PRESET_AGENT, PRESET_EPISODES, PRESETS, SearchConfig
from amc.envs.make import make_env
from amc.envs.pruning import Episode, PruningEnv
from amc.errors import ConfigError
from amc.plan import Plan, plan_of, weights_sha256
from amc.resume import Past, Replay
from amc.run import Inputs, RunFolder, check_free
from amc.scorer import Scorer
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
    resume: bool = False,
    config: SearchConfig | None = None,
    on_unit: Callable[[int, int], None] | None = None,
    on_episode: OnEpisode | None = None,
    on_note: Callable[[str], None] = warnings.warn,
    **settings: Any,
) -> SearchResult:
    """Learn how much of each unit of ``task.model`` to keep under ``budget``, and keep the best.

    ``budget`` is a text like ``"flops=0.5 params=0.6"``; ``settings`` are fields of
    :class:`amc.config.SearchConfig` (``episodes``, ``seed``, ``agent``, ``preset``, ``reward``),
    or all of them come as one ``config``. ``run`` is a folder to create; without it nothing is
    written. Ctrl-C ends the search early, with the best plan so far.

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
        env = make_env(task, config, on_unit)
        agent = make_agent(config.agent, env, config.agent_settings, config.seed)
        replay = Replay(past)
        score = stack.enter_context(Scorer(env, config.workers, replay.known))
        if len(replay.episodes) < config.episodes:
            score.start()
        ledger = _Ledger(task, env, inputs.weights_sha256, on_episode)
        episodes = _play(agent, config, score, replay)
        for episode in itertools.islice(episodes, len(replay.episodes)):
            ledger.record(episode)
        # What is recorded has been played again, to the bit: from here on files are changed.
        if past is not None:
            past.mend(ledger.plan() if ledger.history else None)
            ledger.write_to(past.folder, config, agent, stack)
        elif run is not None:
            folder = RunFolder.create(Path(run), config, inputs)
            stack.enter_context(folder.claimed())
            ledger.write_to(folder, config, agent, stack)
        interrupted = False
        try:
            for episode in episodes:
                ledger.record(episode)
        except KeyboardInterrupt:
            if not ledger.history:
                raise
            interrupted = True
        ledger.finish(agent.policy)
    return SearchResult(
        plan=ledger.plan(),
        policy=agent.policy,
        history=tuple(ledger.history),
        best=ledger.best,
        units=env.units,
        budget=env.budget,
        interrupted=interrupted,
    )


def _play(agent: Agent, config: SearchConfig, score: Scorer, replay: Replay) -> Iterator[Episode]:
    """Ask, evaluate, tell, until all episodes are played or the agent has no other plan.

    The agent is always asked for a whole batch, even where the search ends within it: so a shorter
    search is the beginning of a longer one.
    """
    played = 0
    while played < config.episodes:
        asked = time.perf_counter()
        proposals = agent.ask(config.workers)[: config.episodes - played]
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


class _Ledger:
    """Keeps every episode and the best of them, and the best plan on disk."""

    best: Episode

    def __init__(
        self, task: Task, env: PruningEnv, sha256: str, on_episode: OnEpisode | None
    ) -> None:
        self._task, self._env, self._sha256 = task, env, sha256
        self._on_episode = on_episode
        self._folder: RunFolder | None = None
        self._writers: list[JsonlRecorder | TensorBoardMonitor] = []
        self.history: list[Episode] = []

    def write_to(
        self, folder: RunFolder, config: SearchConfig, agent: Agent, stack: contextlib.ExitStack
    ) -> None:
        """Record what follows in ``folder``, which has what came before; ``stack`` closes files."""
        monitor = TensorBoardMonitor(
            folder.tensorboard,
            self._env.units,
            agent.diagnostics,
            config.hyperparameters(),
            resumed_episodes=len(self.history),
        )
        for episode in self.history:
            monitor(episode)
        self._folder, self._writers = folder, [JsonlRecorder(folder.episodes), monitor]
        for writer in self._writers:
            stack.enter_context(contextlib.closing(writer))

    def record(self, episode: Episode) -> None:
        """Note an episode: its line first, of which all else can be made again."""
        improved = not self.history or episode.reward > self.best.reward
        if improved:
            self.best = episode
        self.history.append(episode)
        for write in self._writers:
            write(episode)
        if improved and self._folder is not None:
            self.plan().save(self._folder.plan)
        if self._on_episode is not None:
            self._on_episode(episode, self.best)

    def finish(self, policy: Policy | None) -> None:
        """Leave the best plan in the folder, wherever the search was stopped, and the policy."""
        if self._folder is not None:
            self.plan().save(self._folder.plan)
            if policy is not None:
                policy.save(self._folder.policy)

    def plan(self) -> Plan:
        """The best episode as a plan."""
        inputs, cost = self._task.example_inputs, self._env.cost
        return plan_of(
            self._env.units,
            self.best.widths,
            macs=(self.best.macs, cost.dense_macs),
            params=(self.best.params, cost.dense_params),
            weights_sha256=self._sha256,
            model=self._task.config,
            quality=self.best.quality,
            input_shape=tuple(inputs.shape) if isinstance(inputs, Tensor) else None,
        )


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
    if not limits and config.reward in ("kl", "accuracy", "cross_entropy"):
        raise ConfigError(
            f"reward {config.reward!r} alone keeps everything; give a budget such as flops=0.5, or "
            "a reward that weighs error against cost (amc-flops, amc-params)"
        )
    return config
