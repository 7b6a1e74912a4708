"""Processes that work beside another one do not outlive it."""

import contextlib
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

BUSY = """
import os
import time
from amc.utils.child_process import Child

def work(connection):
    connection.send(os.getpid())
    time.sleep(1000)  # without a look at the pipe

if __name__ == "__main__":
    print(Child(work).receive(), flush=True)
    time.sleep(1000)
"""


def test_a_child_at_work_ends_when_its_parent_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(BUSY)
    with subprocess.Popen(
        [sys.executable, script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as parent:
        child = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    try:
        ended, _, _ = select.select([child], [], [], 10)
        assert ended
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child, signal.SIGKILL)
        os.close(child)
