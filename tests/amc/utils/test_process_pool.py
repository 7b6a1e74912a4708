"""Work in other processes: what comes back of it, and that the processes end with their parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amc.errors import ConfigError
from amc.utils.engine import Died, Failed, NotReadyError, Tell
from amc.utils.process_pool import ProcessPool

ROOT = Path(__file__).parents[3]


def echo(payload: bytes) -> Callable[[Any, Tell], Any]:
    """Does what an item says."""

    def handle(item: tuple[str, Any], tell: Tell) -> Any:
        match item:
            case "sleep", seconds:
                time.sleep(seconds)
            case "die", folder:  # once
                with contextlib.suppress(FileExistsError):
                    (folder / "died").mkdir()
                    os.kill(os.getpid(), signal.SIGKILL)
            case "always", number:
                os.kill(os.getpid(), number)
            case "raise", error:
                raise error
            case "unpicklable", _:
                return threading.Lock()
            case "tell", folder:
                tell("begun")
                while not (folder / "heard").exists():
                    time.sleep(0.01)
                tell("heard")
        return payload.decode(), item

    return handle


def refuse(payload: bytes) -> Callable[[Any, Tell], Any]:
    if payload:
        os._exit(4)
    raise ConfigError("not today")


def test_results_come_as_they_finish_by_number_and_with_the_payload() -> None:
    with ProcessPool(echo, b"payload", 2) as pool:
        items = [("sleep", 0.5), ("quick", 1), ("quick", 2)]
        found = list(pool.run(items))
        processes = multiprocessing.active_children()
        assert len(processes) == 2
        assert list(pool.run([])) == []
        assert len(list(pool.run(items))) == 3
        assert set(multiprocessing.active_children()) == set(processes)
    assert found == [(number, ("payload", items[number])) for number in (1, 2, 0)]
    assert not multiprocessing.active_children()


def test_an_item_whose_worker_died_is_done_again_by_another(tmp_path: Path) -> None:
    items = [("die", tmp_path), *(("quick", number) for number in range(4))]
    with ProcessPool(echo, b"p", 2, attempts=2) as pool:
        assert dict(pool.run(items)) == {number: ("p", item) for number, item in enumerate(items)}
        assert dict(pool.run([("always", signal.SIGKILL), ("quick", 1)])) == {
            0: Died("SIGKILL"),
            1: ("p", ("quick", 1)),
        }
        pool.start()
        for process in multiprocessing.active_children():  # which have nothing to do
            process.kill()
            process.join()
        time.sleep(0.2)  # in which the executors notice
        assert dict(pool.run(items)) == {number: ("p", item) for number, item in enumerate(items)}


def test_exceptions_come_back_in_words() -> None:
    items = [("raise", OSError("no disk")), ("raise", ConfigError("no")), ("unpicklable", 0)]
    with ProcessPool(echo, b"", 1) as pool:
        disk, own, lock = (result for _, result in pool.run([*items]))
        system_exit = dict(pool.run([("raise", SystemExit(3))]))[0]
    for failed, message in (
        (disk, "OSError: no disk"),
        (own, "no"),
        (lock, "TypeError: cannot pickle '_thread.lock' object"),
        (system_exit, "SystemExit: 3"),
    ):
        assert isinstance(failed, Failed)
        assert failed.message == message
        assert "Traceback" in failed.trace


def test_a_worker_that_does_not_become_ready_says_why() -> None:
    for payload, reason in ((b"", "not today"), (b"x", "exit status 4")):
        with ProcessPool(refuse, payload, 2) as pool, pytest.raises(NotReadyError) as caught:
            pool.start()
        assert caught.value.reason[0] == reason


def test_events_are_heard_while_the_item_is_at_work(tmp_path: Path) -> None:
    heard = []

    def on_event(number: int, event: str) -> None:
        heard.append((number, event))
        (tmp_path / "heard").touch()  # which the work waits for

    with ProcessPool(echo, b"", 2) as pool:
        numbers = [number for number, _ in pool.run([("quick", 1), ("tell", tmp_path)], on_event)]
    assert sorted(numbers) == [0, 1]
    assert heard == [(1, "begun"), (1, "heard")]


def test_an_interrupt_does_not_reach_a_worker_even_while_it_boots() -> None:
    with ProcessPool(echo, b"p", 1) as pool:
        booting = threading.Timer(
            0.01, lambda: [*map(interrupt, multiprocessing.active_children())]
        )
        booting.start()
        item = ("always", signal.SIGINT)
        assert list(pool.run([item, item])) == [(0, ("p", item)), (1, ("p", item))]
        booting.join()


def interrupt(process: multiprocessing.process.BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)


def test_leaving_ends_work_under_way_at_once_and_so_does_closing() -> None:
    started = time.monotonic()
    with ProcessPool(echo, b"", 2) as pool:
        pool.start()
        results = pool.run([("sleep", 1000), ("quick", 1), ("quick", 2)])
        assert next(results)[0] == 1
        results.close()
        assert len(multiprocessing.active_children()) == 1
        results = pool.run([("quick", 1), ("sleep", 1000), ("sleep", 1000)])
        assert next(results)[0] == 0
    assert not multiprocessing.active_children()
    results.close()
    assert time.monotonic() - started < 100


BUSY = """
import os
import time
from amc.utils.process_pool import ProcessPool

def set_up(payload):
    return work

def work(item, tell):
    tell(os.getpid())
    time.sleep(1000)  # without a look at the connection

if __name__ == "__main__":
    for _ in ProcessPool(set_up, b"", 1).run([0], lambda number, event: print(event, flush=True)):
        pass
"""


def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(BUSY)
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as parent:
        assert parent.stdout is not None
        worker = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    try:
        ended, _, _ = select.select([worker], [], [], 10)
        assert ended
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(worker, signal.SIGKILL)
        os.close(worker)
