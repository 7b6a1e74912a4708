"""A native crash is told from every other end of a process."""

from __future__ import annotations

import faulthandler
import subprocess
import sys
from pathlib import Path

import pytest

from amc.compute.crash_record import crash_record, crashed

CHILD = """
import os, signal, sys
from pathlib import Path
from amc.compute.crash_record import crash_record
with crash_record(Path(sys.argv[1])):
    {end}
"""


def end_with(end: str, folder: Path) -> int:
    """The exit code of a process that ends within a record."""
    command = [sys.executable, "-c", CHILD.format(end=end), str(folder)]
    return subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_only_native_crashes_are_crashes(tmp_path):
    assert end_with("os.kill(os.getpid(), signal.SIGKILL)", tmp_path) == -9
    assert not crashed(tmp_path)
    assert end_with("os.kill(os.getpid(), signal.SIGSEGV)", tmp_path) == -11
    assert crashed(tmp_path)
    assert end_with("raise KeyboardInterrupt", tmp_path) != 0
    assert not crashed(tmp_path)
    assert end_with("os.abort()", tmp_path) == -6
    assert crashed(tmp_path)
    assert end_with("pass", tmp_path) == 0
    assert not crashed(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("enabled", [False, True])
def test_faulthandler_is_restored(tmp_path, enabled):
    was_enabled = faulthandler.is_enabled()
    try:
        faulthandler.enable(sys.__stderr__) if enabled else faulthandler.disable()
        with crash_record(tmp_path):
            assert faulthandler.is_enabled()
        assert faulthandler.is_enabled() == enabled
        with pytest.raises(KeyError), crash_record(tmp_path):
            raise KeyError
        assert faulthandler.is_enabled() == enabled
    finally:
        faulthandler.enable(sys.__stderr__) if was_enabled else faulthandler.disable()
    assert list(tmp_path.iterdir()) == []
