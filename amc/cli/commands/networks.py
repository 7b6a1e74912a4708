"""``amc search --model A --model B``: one policy from several networks."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from amc.cli.commands.shared import console, print_notes, progress_bar, set_threads
from amc.cost.quantities import limits_name
from amc.errors import ConfigError

if TYPE_CHECKING:
    from amc.config import SearchConfig
    from amc.task import Task


def train(models: list[str], config: SearchConfig, path: Path) -> None:
    """Train a policy on the networks ``SPEC[@WEIGHTS]``, in ``path``."""
    from amc.config import ModelConfig
    from amc.records.run_folder import check_free
    from amc.vision.task import image_task

    check_free(path)  # before the images are read
    assert config.data is not None
    tasks = {}
    for name, text in zip(_names(models), models, strict=True):
        network = ModelConfig.of(text)
        tasks[name] = image_task(
            network,
            config.data,
            config.evaluate,
            seed=config.seed,
            device=config.device,
            check=True,
        )
    _train(tasks, path, config.episodes, config=config)


def resume_training(
    run: Path, episodes: int | None, device: str | None, threads: int | None, allow_factory: bool
) -> None:
    """Go on with an interrupted training."""
    from amc.pipeline.multi_network import TrainingFolder
    from amc.pipeline.opening import open_task
    from amc.records.run_folder import RunFolder

    folder = TrainingFolder(run)
    runs = {name: RunFolder.open(folder.network(name)) for name in folder.names()}
    configs = [one.load_config() for one in runs.values()]
    set_threads(threads or configs[0].threads)
    tasks = {
        name: open_task(one, device=device, allow_factory=allow_factory)
        for name, one in runs.items()
    }
    total = episodes or sum(config.episodes for config in configs)
    longer = {"episodes": episodes} if episodes is not None else {}
    _train(tasks, run, total, resume=True, **longer)


def training_name(models: list[str], config: SearchConfig) -> str:
    """Of a new folder: the networks, the budget, and the seed."""
    return "-".join([*_names(models), limits_name(config.budget), f"seed{config.seed}"])


def _train(tasks: dict[str, Task], path: Path, total: int, **given: Any) -> None:
    from amc.pipeline.multi_network import train_policy

    command = shlex.join(["amc", "search", "--resume", str(path)])
    for name, task in tasks.items():
        console.print(f"network     {name}", highlight=False)
        print_notes(task.notes)
    console.print(f"folder      {path}   (watch it: tensorboard --logdir {path})")
    try:
        with progress_bar() as bar:
            shares = {name: len(range(i, total, len(tasks))) for i, name in enumerate(tasks)}
            trained = train_policy(
                tasks,
                run=path,
                on_unit=bar.unit,
                on_stage=bar.measured,
                on_episode=lambda name, episode, best: bar.agent(
                    name, episode.number, shares[name], f"best reward {best.reward:.4f}"
                ),
                on_note=bar.note,
                **given,
            )
    except KeyboardInterrupt:
        if path.is_dir():
            console.print(f"go on: {command}")
        raise
    if trained.interrupted:
        console.print(f"interrupted; the policy so far is in {path / 'policy'}\ngo on: {command}")
        raise typer.Exit(130)
    console.print(
        f"policy      {path / 'policy'}\nuse it      amc replay {path} MODEL --budget flops=0.5\n"
        f"plans       of each network: amc apply {path / 'networks'}/NAME --budget flops=0.5",
        highlight=False,
        soft_wrap=True,
    )


def _names(models: list[str]) -> list[str]:
    """What stands behind the last colon of each network's specification, all different."""
    from amc.config import ModelConfig

    names = [ModelConfig.of(text).spec.rpartition(":")[2] for text in models]
    if len(set(names)) < len(names):
        names = [f"{name}-{number}" for number, name in enumerate(names, start=1)]
    for name in names:
        if not name or Path(name).name != name:
            raise ConfigError(f"--model {name!r}: write MODEL or MODEL@WEIGHTS")
    return names
