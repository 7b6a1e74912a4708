"""The run folder: what a search leaves behind, file by file."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import amc
from amc.config import SearchConfig
from amc.errors import RunError
from amc.utils.settings import Settings, load_toml, save_toml

if sys.platform != "win32":
    import fcntl


TRAINING = "training.toml"
"""In the folder of a training on several networks; each has a run's folder two levels below."""


class Inputs(Settings):
    """What a search was given beyond its settings, and must be given again when it is resumed."""

    weights_sha256: str
    """Of the dense network."""
    data_sha256: str | None = None
    """Of what scores a plan; None where the task does not tell."""


class RunFolder:
    """Paths inside ``runs/NAME``, and its configuration."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.episodes = path / "episodes.jsonl"
        self.plan = path / "plan.json"
        self.front = path / "front.json"
        self.policy = path / "policy"
        self.latency = path / "latency.safetensors"
        self.confirmation = path / "latency.json"
        self.start = path / "start"
        self.pruned = path / "pruned.safetensors"
        self.finetuned = path / "model.safetensors"
        self.finetuning = path / "finetuning"
        self.results = path / "results.json"
        self.tensorboard = path / "tb"
        self.report = path / "report.html"

    @classmethod
    def create(cls, path: Path, config: SearchConfig, inputs: Inputs) -> RunFolder:
        """A new folder with ``config.toml``. Raises :class:`RunError` where one is in the way."""
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        given = inputs.model_dump(exclude_none=True)
        save_toml(config, run.config, versions=versions(), inputs=given)
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing folder. Raises :class:`RunError` where it is not the folder of a run."""
        run = cls(path)
        if not run.config.is_file():
            raise RunError(f"{path} is not the folder of a run: it has no config.toml")
        return run

    def network(self) -> Path:
        """The finetuned network, or the pruned one where nothing was finetuned.

        Raises :class:`RunError` where there is neither.
        """
        for path in (self.finetuned, self.pruned):
            if path.is_file():
                return path
        raise RunError(f"{self.path} holds no network yet; cut it first: amc apply {self.path}")

    def load_config(self) -> SearchConfig:
        """The configuration that the run was started with."""
        values = self._settings()
        for table in ("versions", "inputs"):
            values.pop(table, None)
        return SearchConfig.parse(values, str(self.config))

    def save_config(self, config: SearchConfig) -> None:
        """Replace the configuration; what the run was made with and when it began stay."""
        values, began = self._settings(), self.config.stat()
        tables = {name: values[name] for name in ("versions", "inputs") if name in values}
        save_toml(config, self.config, **tables)
        os.utime(self.config, ns=(began.st_atime_ns, began.st_mtime_ns))

    def versions(self) -> dict[str, str]:
        """What :func:`versions` said when the run began."""
        return {name: str(value) for name, value in self._settings().get("versions", {}).items()}

    def inputs(self) -> Inputs:
        """What the run was given. Raises :class:`RunError` where it does not say."""
        values = self._settings()
        if "inputs" not in values:
            raise RunError(
                f"{self.config} does not say which weights the run began with, so that it cannot "
                "be resumed; start a new one"
            )
        return Inputs.parse(values["inputs"], str(self.config))

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Held while a search writes here, and let go however its process ends.

        Raises :class:`RunError` where another one holds it.
        """
        if sys.platform == "win32":  # has no locks on folders
            yield
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            _lock(handle, self.path)
            yield
        finally:
            os.close(handle)

    def _settings(self) -> dict[str, Any]:
        return load_toml(self.config)


def _lock(handle: int, path: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RunError(f"{path}: another process is searching there; let it end") from None
    except OSError:  # a file system without locks
        pass


def check_free(path: Path) -> None:
    """Raise :class:`RunError` where ``path`` holds something already."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(
            f"{path} exists and is not empty; choose another --run, remove it, or go on with the "
            "search that it holds (--resume)"
        )


def free_name(folder: Path, name: str, suffix: str = "") -> Path:
    """``folder/name``, or with the first free number behind it, before its ``suffix``."""
    path, number = folder / f"{name}{suffix}", 2
    while path.exists():
        path, number = folder / f"{name}-{number}{suffix}", number + 1
    return path


def versions() -> dict[str, str]:
    """What a result may depend on, to the last bit."""
    libraries = {name: version(name) for name in ("numpy", "stable-baselines3")}
    return {
        "amc": amc.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        **libraries,
        "cpu": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "threads": str(torch.get_num_threads()),
    }
