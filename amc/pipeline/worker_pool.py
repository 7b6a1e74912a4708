"""Plans evaluated side by side, each worker in a process of its own.

Each is sent what it needs once. A worker that dies is replaced, and its plan evaluated again. What
comes out does not depend on which worker was quicker.
"""

from __future__ import annotations

import contextlib
import io
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import torch

from amc.errors import ConfigError, EvaluationError
from amc.models.factory import import_file, imported_files
from amc.utils.child_process import Child

if TYPE_CHECKING:
    from amc.envs.problem import Evaluate

DEATHS = 3
"""Workers that may die on one plan before the plan is given up."""


class Scored(NamedTuple):
    """What a worker found."""

    quality: dict[str, float]
    seconds: float
    """The worker's own time."""


class _Failed(NamedTuple):
    """An exception, in words: not every exception survives pickling."""

    message: str
    trace: str


class WorkerPool:
    """``count`` processes that evaluate plans; a context manager that ends them.

    Each works with its share of PyTorch's threads, at least one. On CUDA all of them use the
    device of the network, and each holds a copy of network and images there.

    Args:
        evaluate: widths to quality; a copy of it is sent to every worker.
        count: how many processes.

    Raises:
        ConfigError: ``evaluate`` cannot be sent.
    """

    def __init__(self, evaluate: Evaluate, count: int) -> None:
        self._payload = _pack(evaluate)
        self._threads = max(1, torch.get_num_threads() // count)
        self._count = count
        self._workers: list[_Worker] = []

    def start(self) -> None:
        """Start the processes, if they are not running, and wait until all are ready.

        Raises :class:`ConfigError` where one does not become ready.
        """
        if not self._workers:
            for _ in range(self._count):  # all boot at once, before the first is sent its copy
                self._workers.append(_Worker(self._threads))
            for worker in self._workers:
                worker.send_payload(self._payload)
            for worker in self._workers:
                worker.await_ready()

    def __call__(self, plans: Sequence[tuple[int, ...]]) -> list[Scored]:
        """The quality of each plan, in their order.

        Raises :class:`EvaluationError`, naming the widths, for a plan whose evaluation fails, or
        ends :data:`DEATHS` workers.
        """
        self.start()
        todo = list(range(len(plans)))[::-1]
        done: dict[int, Scored] = {}
        deaths: Counter[int] = Counter()
        idle = list(self._workers)
        busy: dict[Connection, tuple[_Worker, int]] = {}
        while len(done) < len(plans):
            while todo and idle:
                worker, index = idle.pop(), todo.pop()
                worker.child.send(plans[index])
                busy[worker.child.connection] = worker, index
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                worker, index = busy.pop(connection)
                answer = worker.answer()
                if isinstance(answer, Scored):
                    done[index] = answer
                elif isinstance(answer, _Failed):
                    raise _error(plans[index], answer)
                else:
                    deaths[index] += 1
                    if deaths[index] == DEATHS:
                        raise EvaluationError(
                            f"widths {list(plans[index])}: evaluating this plan ended its process "
                            f"{DEATHS} times ({worker.child.end}); out of memory? Try fewer workers"
                        )
                    todo.append(index)
                    worker = self._replace(worker)
                idle.append(worker)
        return [done[index] for index in range(len(plans))]

    def _replace(self, dead: _Worker) -> _Worker:
        dead.child.kill()
        fresh = self._workers[self._workers.index(dead)] = _Worker(self._threads)
        fresh.send_payload(self._payload)
        fresh.await_ready()
        return fresh

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.child.kill()


class _Worker:
    """One process that evaluates."""

    def __init__(self, threads: int) -> None:
        self.child = Child(_serve, threads, imported_files())

    def send_payload(self, payload: memoryview) -> None:
        """Send what it needs; a worker that is gone already is found by :meth:`await_ready`."""
        with contextlib.suppress(OSError):
            self.child.connection.send_bytes(payload)

    def await_ready(self) -> None:
        """Wait until it has unpacked what it was sent."""
        answer = self.answer()
        if isinstance(answer, _Failed):
            raise _cannot_send(answer.message)
        if answer is None:
            raise ConfigError(
                f"a worker process ended before it was ready ({self.child.end}): each needs memory "
                "for network and images, and a script that searches with workers must do so "
                'under `if __name__ == "__main__":`; or search with workers = 1'
            )

    def answer(self) -> Scored | _Failed | str | None:
        """Its next answer, None where it has died."""
        try:
            answer: Scored | _Failed | str = self.child.receive()
        except EOFError:
            return None
        return answer


def _serve(connection: Connection, threads: int, files: Sequence[Path]) -> None:
    """A worker's life: unpack the evaluation, then answer widths with their quality."""
    torch.set_num_threads(threads)
    evaluate = _unpack(connection.recv_bytes(), files)
    if isinstance(evaluate, _Failed):
        connection.send(evaluate)
        return
    connection.send("ready")
    while True:
        connection.send(_evaluate(evaluate, connection.recv()))


def _unpack(payload: bytes, files: Sequence[Path]) -> Evaluate | _Failed:
    try:
        for file in files:  # whose classes are about to be unpickled
            import_file(file)
        # Not a stranger's file: the parent's own objects.
        evaluate: Evaluate = torch.load(io.BytesIO(payload), weights_only=False)
    except Exception as error:  # unpickling runs the code of a user's classes
        return _describe(error)
    return evaluate


def _evaluate(evaluate: Evaluate, widths: tuple[int, ...]) -> Scored | _Failed:
    started = time.perf_counter()
    try:
        quality = {name: float(value) for name, value in evaluate(widths).items()}
    except Exception as error:  # the user's own code may be behind it
        return _describe(error)
    return Scored(quality, time.perf_counter() - started)


def _pack(evaluate: Evaluate) -> memoryview:
    """Pickled by PyTorch, which stores tensors that are views of one memory only once."""
    buffer = io.BytesIO()
    try:
        torch.save(evaluate, buffer)
    except Exception as error:  # pickle raises whatever an object's own code does
        raise _cannot_send(_describe(error).message) from error
    return buffer.getbuffer()


def _cannot_send(reason: str) -> ConfigError:
    return ConfigError(
        f"workers: the evaluation cannot be sent to another process: {reason}; define its "
        "functions and the network's classes at the top level of a module, or search with "
        "workers = 1"
    )


def _describe(error: Exception) -> _Failed:
    name = "" if isinstance(error, EvaluationError) else f"{type(error).__name__}: "
    return _Failed(f"{name}{error}", traceback.format_exc())


def _error(widths: tuple[int, ...], failed: _Failed) -> EvaluationError:
    error = EvaluationError(f"widths {list(widths)}: {failed.message}")
    error.add_note(failed.trace)
    return error
