"""The run folder: what a search leaves behind, file by file."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch

import amc
from amc.config import SearchConfig, load_toml, save_toml
from amc.errors import RunError


class RunFolder:
    """Paths inside ``runs/NAME``, and its configuration."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.episodes = path / "episodes.jsonl"
        self.plan = path / "plan.json"
        self.front = path / "front.json"
        self.policy = path / "policy"
        self.pruned = path / "pruned.safetensors"
        self.finetuned = path / "model.safetensors"
        self.results = path / "results.json"
        self.tensorboard = path / "tb"
        self.report = path / "report.html"

    @classmethod
    def create(cls, path: Path, config: SearchConfig) -> RunFolder:
        """A new folder with ``config.toml``. Raises :class:`RunError` where one is in the way."""
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        save_toml(config, run.config, versions=versions())
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
        values: dict[str, Any] = load_toml(self.config)
        values.pop("versions", None)
        return SearchConfig.parse(values, str(self.config))


def check_free(path: Path) -> None:
    """Raise :class:`RunError` where ``path`` holds something already."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RunError(f"{path} exists and is not empty; choose another --run, or remove it")


def free_name(folder: Path, name: str) -> Path:
    """``folder/name``, or with the first free number behind it."""
    path, number = folder / name, 2
    while path.exists():
        path, number = folder / f"{name}-{number}", number + 1
    return path


def versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    return {"amc": amc.__version__, "python": platform.python_version(), "torch": torch.__version__}
