"""Jobs in other processes: heard of while they run, and one that fails does not stop the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from amc.comparison.job_pool import ONE_THREAD, Event, Failure, MakeTask, Progress, work
from amc.comparison.jobs import Job, Outcome
from amc.comparison.settings import CompareConfig
from amc.config import SearchConfig
from amc.errors import ConfigError
from amc.task import Task
from tests.tiny import failing_task, no_task, tiny_task

CONFIG = CompareConfig(
    agents=("random",), seeds=2, evaluations=(6,), search=SearchConfig(budget={"macs": 0.5})
)
JOBS = [Job("random", 0), Job("random", 1)]


def done(make_task: MakeTask, count: int = 2) -> dict[Job, list[Event]]:
    """What is heard of each job."""
    heard: dict[Job, list[Event]] = {job: [] for job in JOBS}
    work(make_task, CONFIG, JOBS, count, lambda job, event: heard[job].append(event))
    return heard


def test_every_plan_is_heard_of_before_the_outcome_as_in_one_process() -> None:
    before = dict(os.environ)
    there, here = done(tiny_task), done(tiny_task, 1)
    assert dict(os.environ) == before
    for job in JOBS:
        *progress, outcome = there[job]
        assert progress == here[job][:-1]
        assert [event.evaluated for event in progress if isinstance(event, Progress)] == [
            *range(1, 7)
        ]
        other = here[job][-1]
        assert isinstance(outcome, Outcome)
        assert isinstance(other, Outcome)
        assert outcome.model_dump(exclude={"seconds"}) == other.model_dump(exclude={"seconds"})


def test_a_job_that_ends_its_process_is_reported_and_not_done_again(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    trap.touch()
    ends = [events[-1] for events in done(partial(tiny_task, trap)).values()]
    (failure,) = [end for end in ends if isinstance(end, Failure)]
    assert failure.message.startswith("its process ended (SIGKILL)")
    assert sum(isinstance(end, Outcome) for end in ends) == 1


@pytest.mark.parametrize(
    ("make_task", "words"),
    [(failing_task, "no light"), (partial(tiny_task, 3), "AttributeError: 'int' object has no")],
)
def test_a_job_that_fails_is_reported_in_words(make_task: Callable[[], Task], words: str) -> None:
    for (failure,) in done(make_task).values():
        assert isinstance(failure, Failure)
        assert words in failure.message


def test_a_process_that_cannot_build_the_task_says_why() -> None:
    with pytest.raises(ConfigError, match=r"^no such network$"):
        done(no_task)
    with pytest.raises(
        ConfigError, match=r"ended before it was ready \(exit status 3\).* fewer jobs"
    ):
        done(partial(os._exit, 3))


def test_processes_compute_with_one_thread() -> None:
    with pytest.raises(ConfigError, match=r"1 thread, .*'1', '1'"):
        done(_threads)


def _threads() -> Task:
    import torch

    raise ConfigError(
        f"{torch.get_num_threads()} thread, {[os.environ.get(name) for name in ONE_THREAD]}"
    )
