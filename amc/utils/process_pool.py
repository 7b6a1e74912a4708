"""Work done side by side in processes of this machine.

There is one ``ProcessPoolExecutor`` for each worker, so that a broken executor tells which item
broke it. An executor does not say how its process ended, cannot end it at work (before Python
3.14), leaves it to Ctrl-C and lets it outlive a killed parent: that is what is added here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, parent_process, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any, Generic, Self, TypeVar

from amc.errors import AMCError
from amc.utils.engine import Died, Failed, NotReadyError, OnEvent, Tell

Item = TypeVar("Item")
Result = TypeVar("Result")

EVENT_INTERVAL = 0.1
"""Seconds that an event may wait before it is heard; a result does not wait."""


class ProcessPool(Generic[Item, Result]):
    """An :class:`~amc.utils.engine.Engine` of ``count`` processes on this machine.

    They are spawned, not forked: the threads of OpenMP and CUDA do not survive a fork. They end
    with this process, even in the middle of their work. Ctrl-C does not reach them: that is for
    this process, which ends them.

    Args:
        set_up: called with the payload in each process; makes the function that handles an item.
        payload: sent to each process once.
        count: how many processes.
        attempts: how many workers may die at one item before it is given up.
        environment: variables that the processes have besides those of this one.
    """

    def __init__(
        self,
        set_up: Callable[[bytes], Callable[[Item, Tell], Result]],
        payload: bytes | memoryview,
        count: int,
        *,
        attempts: int = 1,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._set_up, self._payload, self._count = set_up, payload, count
        self._attempts, self._environment = attempts, environment or {}
        self._workers: list[_Worker] = []

    def start(self) -> None:
        """Start the processes that are not running, and wait until all are ready."""
        self._add(self._count - len(self._workers))
        for worker in self._workers:
            _check(worker.result(worker.ready))

    def run(
        self, items: Sequence[Item], on_event: OnEvent = lambda _number, _event: None
    ) -> Generator[tuple[int, Result | Failed | Died], None, None]:
        """Results as they finish; a worker that died is replaced while items are left."""
        self.start()
        todo = deque(range(len(items)))
        deaths = Counter[int]()
        idle = list(self._workers)
        busy: dict[Future[Any], tuple[_Worker, int]] = {}
        starting: dict[Future[Any], _Worker] = {}
        try:
            while todo or busy:
                while todo and idle:
                    worker = idle.pop()
                    try:
                        future = worker.submit(items[todo[0]])
                        busy[future] = worker, todo.popleft()
                    except BrokenProcessPool:  # it died while it had nothing to do
                        self._remove(worker)
                starting.update((new.ready, new) for new in self._replace_dead(len(todo)))
                finished, _ = wait([*busy, *starting], EVENT_INTERVAL, FIRST_COMPLETED)
                for worker, number in busy.values():
                    for event in worker.events():
                        on_event(number, event)
                for future in finished & starting.keys():
                    worker = starting.pop(future)
                    _check(worker.result(future))
                    idle.append(worker)
                for future in finished & busy.keys():
                    worker, number = busy.pop(future)
                    result = worker.result(future)
                    if isinstance(result, Died):
                        self._remove(worker)
                        deaths[number] += 1
                    else:
                        idle.append(worker)
                    if isinstance(result, Died) and deaths[number] < self._attempts:
                        todo.appendleft(number)
                    else:
                        yield number, result
        finally:
            for worker, _ in busy.values():
                self._remove(worker)

    def _replace_dead(self, wanted: int) -> list[_Worker]:
        return self._add(min(wanted, self._count - len(self._workers)))

    def _add(self, count: int) -> list[_Worker]:
        """Start ``count`` more processes; all boot at once, before the first gets the payload."""
        added = []
        for _ in range(count):
            added.append(_Worker(self._set_up, self._environment))
            self._workers.append(added[-1])
        for worker in added:
            worker.send(self._payload)
        return added

    def _remove(self, worker: _Worker) -> None:
        if worker in self._workers:
            self._workers.remove(worker)
        worker.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self._workers:
            worker.kill()
        while self._workers:
            self._workers.pop().end()


class _Context(SpawnContext):
    """Keeps hold of the one process that an executor starts by it."""

    process: SpawnProcess

    def Process(self, *args: Any, **kwargs: Any) -> SpawnProcess:  # type: ignore[override]
        self.process = SpawnProcess(*args, **kwargs)
        return self.process


class _Worker:
    """One process, and the connection that brings it the payload and brings back events."""

    def __init__(self, set_up: Callable[[bytes], Any], environment: Mapping[str, str]) -> None:
        self._context = _Context()
        self._connection, theirs = self._context.Pipe()
        self._executor = ProcessPoolExecutor(1, self._context, _initialize, (theirs,))
        with _in_environment(environment), _without_interrupts():
            self.ready = self._executor.submit(_prepare, set_up)
        theirs.close()  # so that the death of the process closes the connection

    def send(self, payload: bytes | memoryview) -> None:
        """Send what it waits for; that it is gone already is found by ``ready``."""
        with contextlib.suppress(OSError):
            self._connection.send_bytes(payload)

    def submit(self, item: Any) -> Future[Any]:
        """Begin with an item; raises BrokenProcessPool where it is known to have died."""
        return self._executor.submit(_handle, item)

    def events(self) -> Iterator[Any]:
        """What it has told since it was asked last."""
        with contextlib.suppress(EOFError, OSError):
            while self._connection.poll():
                yield self._connection.recv()

    def result(self, future: Future[Any]) -> Any:
        """What came of a call, :class:`Failed` and :class:`Died` included; waits for it."""
        error = future.exception()
        if error is None:
            return future.result()
        return Died(self.end()) if isinstance(error, BrokenProcessPool) else _describe(error)

    def kill(self) -> None:
        """End the process, without waiting for its end."""
        self._context.process.kill()

    def end(self) -> str:
        """End the process if it has not died; in words, how it ended."""
        self.kill()
        self._executor.shutdown()  # which waits for the process
        self._connection.close()
        code = self._context.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"


def _check(answer: Failed | Died | None) -> None:
    if answer is not None:
        raise NotReadyError(answer)


class _Kept:
    """What a worker's process keeps between its calls."""

    connection: Connection
    handle: Callable[[Any, Tell], Any]


def _initialize(connection: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _Kept.connection = connection


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _prepare(set_up: Callable[[bytes], Callable[[Any, Tell], Any]]) -> Failed | None:
    try:
        _Kept.handle = set_up(_Kept.connection.recv_bytes())
    except Exception as error:  # unpacking runs the code of a user's classes
        return _describe(error)
    return None


def _handle(item: Any) -> Any:
    try:
        return _Kept.handle(item, _Kept.connection.send)
    except Exception as error:  # the user's own code may be behind it
        return _describe(error)


def _describe(error: BaseException) -> Failed:
    name = "" if isinstance(error, AMCError) else f"{type(error).__name__}: "
    return Failed(f"{name}{error}", "".join(traceback.format_exception(error)))


@contextlib.contextmanager
def _in_environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Start processes that have these variables."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start processes that SIGINT does not reach."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which would lift the block, were it started within it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
