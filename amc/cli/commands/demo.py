"""``amc demo``: the whole path on embedded data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amc.cli.commands.shared import console, print_notes, progress_bar, recover_plan, set_threads


def demo(
    run: Annotated[Path | None, typer.Option(help="Folder of the run")] = None,
    episodes: Annotated[int, typer.Option(min=1)] = 60,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """The whole path on embedded data: train a small CNN on digits, halve its MACs, recover it."""
    from amc.pipeline.demo import DEMO_DATA, DEMO_EVALUATE, DEMO_RECIPE, train_dense
    from amc.pipeline.search import make_config
    from amc.pipeline.search import search as find_plan
    from amc.records.run_folder import RunFolder, free_name
    from amc.vision.task import image_task

    set_threads(1)  # tensors this small gain nothing from more, and lose much on a busy machine
    path = run or free_name(Path("runs"), "demo")
    console.print("[bold]1. a trained network[/]  the small CNN on scikit-learn's digits")
    with progress_bar() as bar:
        model_config = train_dense(path.parent, seed, on_step=bar.step("training"))
    config = make_config(
        "flops=0.5",
        model=model_config,
        data=DEMO_DATA,
        evaluate=DEMO_EVALUATE,
        episodes=episodes,
        seed=seed,
        threads=1,
        finetune=DEMO_RECIPE,
    )
    task = image_task(model_config, DEMO_DATA, DEMO_EVALUATE, seed=seed, progress=False)
    print_notes(task.notes)
    console.print(f"[bold]2. the search[/]  flops=0.5, {episodes} episodes, into {path}")
    with progress_bar(episodes=episodes) as bar:
        find_plan(
            task,
            config=config,
            run=path,
            on_unit=bar.unit,
            on_stage=bar.measured,
            on_episode=bar.episode,
        )
    console.print("[bold]3. the pruned network[/]  sliced, verified, finetuned")
    recover_plan(task, RunFolder.open(path), DEMO_RECIPE)
