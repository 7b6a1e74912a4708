"""One network's episodes: plans are proposed, evaluated, told and recorded, one after the other."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from amc.agents.registry import Agent
from amc.config import SearchConfig
from amc.envs.problem import PruningProblem
from amc.latency.predictor.model import LatencyModel
from amc.pipeline.assignment import Assignment, OnEpisode
from amc.pipeline.evaluation import Scorer
from amc.pipeline.history import History
from amc.pipeline.resume import Replay
from amc.records.episode import Episode
from amc.records.run_folder import RunFolder


class SearchLoop:
    """Plays one episode after the other, first those that are recorded; a context manager.

    Raises :class:`ConfigError`, on entering, where the evaluation cannot be sent to the workers.
    """

    def __init__(
        self,
        assignment: Assignment,
        problem: PruningProblem,
        agent: Agent,
        on_episode: OnEpisode | None,
    ) -> None:
        self.problem, self.agent = problem, agent
        self.history = History(assignment, problem, on_episode)
        self._assignment = assignment
        self._replay = Replay(assignment.recorded)
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        config, replay = self._assignment.config, self._replay
        with self._stack:  # closed here, where entering fails
            score = self._stack.enter_context(Scorer(self.problem, config.workers, replay.known))
            if self.recorded < _limit(config):
                score.start()
            self._episodes = _play(self.agent, config, score, replay)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def recorded(self) -> int:
        """How many of its episodes are recorded already."""
        return len(self._replay.episodes)

    def step(self) -> bool:
        """Play an episode; False where there is no other."""
        for episode in self._episodes:
            self.history.record(episode)
            return True
        return False

    def write_to(self, path: Path | None) -> RunFolder | None:
        """From here on files are changed: what is recorded has been played again, to the bit."""
        recorded = self._assignment.recorded
        if recorded is not None:
            recorded.mend(self.history.best_plan() if self.history.episodes else None)
            folder = recorded.folder
        elif path is not None:
            folder = RunFolder.create(path, self._assignment.config, self._assignment.inputs)
            self._stack.enter_context(folder.claimed())
            if isinstance(self.problem.cost.latency, LatencyModel):
                self.problem.cost.latency.save(folder.latency)
        else:
            return None
        self.history.write_to(folder, self.agent, self._stack)
        return folder


def in_turn(loops: Sequence[SearchLoop]) -> Iterator[None]:
    """An episode on each network after the other, until none has another."""
    left = list(loops)
    while left:
        for loop in tuple(left):
            if loop.step():
                yield
            else:
                left.remove(loop)


def play_recorded(loops: Sequence[SearchLoop], steps: Iterator[None]) -> None:
    """Play what is recorded again."""
    for _ in itertools.islice(steps, sum(loop.recorded for loop in loops)):
        pass


def play_rest(loops: Sequence[SearchLoop], steps: Iterator[None]) -> bool:
    """Play what is left; False where the user has stopped it.

    An interrupt before the first episode goes on to the caller.
    """
    try:
        for _ in steps:
            pass
    except KeyboardInterrupt:
        if not all(loop.history.episodes for loop in loops):
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
