"""Jobs of a comparison side by side, each worker in a process of its own.

Each builds the task once and then takes one job after the other. A job that fails, or whose process
dies, is reported, and the others go on.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

from amc.comparison.jobs import Job, Outcome, play
from amc.config import CompareConfig
from amc.errors import AMCError, ConfigError
from amc.task import Task
from amc.utils.child_process import Child

MakeTask = Callable[[], Task]


class Progress(NamedTuple):
    """One more plan was evaluated."""

    evaluated: int
    best_reward: float


class Failure(NamedTuple):
    """Why a job did not finish."""

    message: str


Event = Progress | Outcome | Failure
OnEvent = Callable[[Job, Event], None]


def work(
    make_task: MakeTask, config: CompareConfig, jobs: Sequence[Job], count: int, on_event: OnEvent
) -> None:
    """Have ``count`` processes do the jobs; with one, they are done in this process.

    ``on_event`` hears of every plan, and of the end of every job, here. ``make_task`` must pickle
    where there are several; other processes compute with one thread each. Raises
    :class:`ConfigError` where a process cannot build the task.
    """
    if min(count, len(jobs)) == 1:
        task = make_task()
        for job in jobs:
            _do(task, config, job, partial(on_event, job))
        return
    todo = list(jobs)[::-1]
    crew: dict[Connection, _Worker] = {}
    try:
        for _ in range(min(count, len(jobs))):
            _hire(crew, make_task, config)
        while crew:
            for connection in wait(list(crew)):
                assert isinstance(connection, Connection)
                worker = crew[connection]
                event = worker.receive()
                if worker.job is not None and event is not None:
                    on_event(worker.job, event)
                if isinstance(event, Progress):
                    continue
                if todo and not worker.crashed:
                    worker.give(todo.pop())
                    continue
                crew.pop(connection).child.kill()
                if todo:
                    _hire(crew, make_task, config)
    finally:
        for worker in crew.values():
            worker.child.kill()


def _hire(crew: dict[Connection, _Worker], make_task: MakeTask, config: CompareConfig) -> None:
    worker = _Worker(make_task, config)
    crew[worker.child.connection] = worker


class _Worker:
    """One process, and the job it is at."""

    def __init__(self, make_task: MakeTask, config: CompareConfig) -> None:
        self.job: Job | None = None
        self.crashed = False
        with _single_threaded():
            self.child = Child(_serve, make_task, config)

    def give(self, job: Job) -> None:
        """Have the next job done."""
        self.job = job
        self.child.send(job)

    def receive(self) -> Event | None:
        """What it has to say; None once it is ready for its first job."""
        try:
            said: Event | ConfigError | None = self.child.receive()
        except EOFError:
            end = self.child.end
            if self.job is None:
                raise ConfigError(
                    f"a process of the comparison ended before it was ready ({end}): each needs "
                    "memory for the network and the images; try fewer jobs side by side"
                ) from None
            self.crashed = True
            return Failure(f"its process ended ({end}); out of memory? try fewer jobs side by side")
        if isinstance(said, ConfigError):
            raise said
        return said


def _serve(connection: Connection, make_task: MakeTask, config: CompareConfig) -> None:
    """A worker's life."""
    import torch

    torch.set_num_threads(1)
    try:
        task = make_task()
    except AMCError as error:
        connection.send(ConfigError(str(error)))
        return
    connection.send(None)
    while True:
        _do(task, config, connection.recv(), connection.send)


def _do(task: Task, config: CompareConfig, job: Job, tell: Callable[[Event], None]) -> None:
    try:
        outcome = play(
            task, config.job(*job), job, lambda evaluated, best: tell(Progress(evaluated, best))
        )
    except AMCError as error:
        tell(Failure(str(error)))
    else:
        tell(outcome)


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    """Start processes whose numerical libraries keep to one thread."""
    before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
