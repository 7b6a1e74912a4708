"""One network's part of a search: its plans are proposed, evaluated, told and recorded."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from amc.agents.registry import Agent
from amc.config import SearchConfig
from amc.cost.channel_multiple import KEPT_LATENCY, best_multiple
from amc.envs.make import make_problem
from amc.envs.problem import PruningProblem
from amc.latency.device import Device, OnStage
from amc.latency.predictor.model import LatencyModel
from amc.models.weights import weights_sha256
from amc.pipeline.evaluation import Scorer
from amc.pipeline.history import History, OnEpisode
from amc.pipeline.resume import RecordedRun, Replay
from amc.pruning.find_units import read_units
from amc.records.episode import Episode
from amc.records.run_folder import Inputs, RunFolder
from amc.task import Task


class SearchLoop:
    """Plays one episode after the other, those of ``past`` first, as they are recorded.

    Raises :class:`ConfigError` where the evaluation cannot be sent to the workers.
    """

    def __init__(
        self,
        stack: contextlib.ExitStack,
        task: Task,
        problem: PruningProblem,
        agent: Agent,
        config: SearchConfig,
        inputs: Inputs,
        past: RecordedRun | None,
        on_episode: OnEpisode | None,
    ) -> None:
        self.problem, self.agent, self.config = problem, agent, config
        self._stack, self._inputs, self._past = stack, inputs, past
        replay = Replay(past)
        self.recorded = len(replay.episodes)
        """How many of its episodes are recorded already."""
        score = stack.enter_context(Scorer(problem, config.workers, replay.known))
        if self.recorded < _limit(config):
            score.start()
        self.history = History(task, problem, config, inputs.weights_sha256, on_episode)
        self._episodes = _play(agent, config, score, replay)

    def step(self) -> bool:
        """Play an episode; False where there is no other."""
        for episode in self._episodes:
            self.history.record(episode)
            return True
        return False

    def write_to(self, path: Path | None) -> RunFolder | None:
        """From here on files are changed: what is recorded has been played again, to the bit."""
        if self._past is not None:
            self._past.mend(self.history.best_plan() if self.history.episodes else None)
            folder = self._past.folder
        elif path is not None:
            folder = RunFolder.create(path, self.config, self._inputs)
            self._stack.enter_context(folder.claimed())
            if isinstance(self.problem.cost.latency, LatencyModel):
                self.problem.cost.latency.save(folder.latency)
        else:
            return None
        self.history.write_to(folder, self.agent, self._stack)
        return folder


def prepare(
    task: Task,
    config: SearchConfig,
    past: RecordedRun | None,
    on_unit: Callable[[int, int], None] | None,
    on_stage: OnStage | None,
    on_note: Callable[[str], None],
) -> tuple[SearchConfig, PruningProblem, Device | None]:
    """The settings as they are recorded, the environment, and what its latency is measured on.

    Raises what :func:`amc.envs.make.make_problem` and :class:`Device` raise.
    """
    # What ranked the channels is recorded, whatever the default will be.
    config = config.model_copy(update={"importance": config.importance or task.importance})
    if not config.timed:
        return config, make_problem(task, config, on_unit, on_stage=on_stage), None
    device = Device(task.model, task.example_inputs, config.latency, on_stage, on_note)
    if config.align:  # as it is recorded: a resumed search asks no more
        free = read_units(task.model, task.example_inputs).limited(
            config.min_keep,
            exclude=config.exclude,
            min_width=config.min_width,
            gentle_ends=config.gentle_ends,
        )
        multiple = best_multiple(free, device.layers_alone(free), _kept_latency(config))
        config = config.model_copy(update={"round_to": {"all": multiple}, "align": False})
    saved = past.folder.latency if past is not None else None
    predict = partial(device.latency_model, saved=saved)
    return config, make_problem(task, config, on_unit, predict, on_stage), device


def _kept_latency(config: SearchConfig) -> tuple[float, float]:
    """Between which fractions of the dense latency plans will be looked for, if that is known."""
    bound = config.budget.get("latency_us", KEPT_LATENCY)
    low, high = bound if isinstance(bound, tuple) else (bound, bound)
    return (low, high) if high <= 1 else KEPT_LATENCY


def inputs_of(task: Task) -> Inputs:
    """What a run of ``task`` must be given again when it is resumed."""
    data_sha256 = task.data_sha256() if task.data_sha256 else None
    return Inputs(weights_sha256=weights_sha256(task.model), data_sha256=data_sha256)


def claimed_run(
    stack: contextlib.ExitStack, run: Path, inputs: Inputs, episodes: int | None
) -> RecordedRun:
    """What the run in this folder has recorded; the folder is claimed until ``stack`` ends.

    Raises what :meth:`RunFolder.claimed` and :meth:`RecordedRun.load` raise.
    """
    folder = RunFolder.open(run)
    stack.enter_context(folder.claimed())
    return RecordedRun.load(folder, inputs, episodes)


def in_turn(tracks: Sequence[SearchLoop]) -> Iterator[None]:
    """An episode on each network after the other, until none has another."""
    left = list(tracks)
    while left:
        for track in tuple(left):
            if track.step():
                yield
            else:
                left.remove(track)


def play_recorded(tracks: Sequence[SearchLoop], steps: Iterator[None]) -> None:
    """Play what is recorded again."""
    for _ in itertools.islice(steps, sum(track.recorded for track in tracks)):
        pass


def play_rest(tracks: Sequence[SearchLoop], steps: Iterator[None]) -> bool:
    """Play what is left; False where the user has stopped it.

    An interrupt before the first episode goes on to the caller.
    """
    try:
        for _ in steps:
            pass
    except KeyboardInterrupt:
        if not all(track.history.episodes for track in tracks):
            raise
        return False
    return True


def _limit(config: SearchConfig) -> int:
    """Episodes at most; what is only replayed ends by itself."""
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
