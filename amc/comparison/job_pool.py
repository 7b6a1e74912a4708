"""Jobs of a comparison side by side, each worker in a process of its own.

Each builds the task once and then takes one job after the other. A job that fails, or whose process
dies, is reported, and the others go on.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from amc.comparison.jobs import Job, Outcome, play
from amc.comparison.settings import CompareConfig
from amc.errors import AMCError, ConfigError
from amc.task import Task
from amc.utils.engine import Died, Engine, Failed, NotReadyError, Tell
from amc.utils.process_pool import ProcessPool

MakeTask = Callable[[], Task]

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


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
    count = min(count, len(jobs))
    if count == 1:
        task = make_task()
        for job in jobs:
            on_event(job, _do(task, config, job, partial(on_event, job)))
        return
    payload = pickle.dumps((make_task, config))
    engine: Engine[Job, Outcome | Failure] = ProcessPool(
        _set_up, payload, count, environment=ONE_THREAD
    )
    with engine:
        try:
            for number, result in engine.run(
                jobs, lambda number, event: on_event(jobs[number], event)
            ):
                on_event(jobs[number], _as_event(result))
        except NotReadyError as error:
            raise _not_ready(error.reason) from error


def _set_up(payload: bytes) -> Callable[[Job, Tell], Outcome | Failure]:
    """In another process: build the task, and give the function that does a job."""
    import torch

    torch.set_num_threads(1)
    make_task, config = pickle.loads(payload)
    return partial(_do, make_task(), config)


def _do(task: Task, config: CompareConfig, job: Job, tell: Tell) -> Outcome | Failure:
    try:
        return play(
            task, config.job(*job), job, lambda evaluated, best: tell(Progress(evaluated, best))
        )
    except AMCError as error:
        return Failure(str(error))


def _as_event(result: Outcome | Failure | Failed | Died) -> Outcome | Failure:
    if isinstance(result, Failed):
        return Failure(f"{result.message}\n{result.trace}")
    if isinstance(result, Died):
        return Failure(
            f"its process ended ({result.end}); out of memory? try fewer jobs side by side"
        )
    return result


def _not_ready(reason: Failed | Died) -> ConfigError:
    if isinstance(reason, Failed):
        return ConfigError(reason.message)
    return ConfigError(
        f"a process of the comparison ended before it was ready ({reason.end}): each needs "
        "memory for the network and the images; try fewer jobs side by side"
    )
