"""Processes that work beside this one.

They are spawned, not forked: the threads of OpenMP and CUDA do not survive a fork.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

_SPAWN = multiprocessing.get_context("spawn")


class Child:
    """A process that runs ``serve(connection, *args)``, and our end of the pipe to it.

    It ends with this process, even in the middle of its work. Ctrl-C does not reach it: that is
    for this process, which ends it.
    """

    def __init__(self, serve: Callable[..., None], *args: Any) -> None:
        """``serve`` and ``args`` must pickle."""
        self.connection, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_live, args=(theirs, serve, args), name="amc worker")
        with _without_interrupts():
            self._process.start()
        theirs.close()  # so that the death of the process closes the pipe

    @property
    def end(self) -> str:
        """How it died, in words; waits until it has."""
        self._process.join()
        code = self._process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"exit status {code}"

    def send(self, message: Any) -> None:
        """Tell it something; that it is gone already is found by :meth:`receive`."""
        with contextlib.suppress(OSError):
            self.connection.send(message)

    def receive(self) -> Any:
        """Its next answer; raises EOFError where it has died."""
        try:
            return self.connection.recv()
        except OSError:
            raise EOFError from None

    def kill(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.join()
        self.connection.close()


def _live(connection: Connection, serve: Callable[..., None], args: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):  # the parent is gone: nobody asks any more
        serve(connection, *args)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


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
