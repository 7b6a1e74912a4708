"""``amc replay``: what was learned on one network, on another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from amc.cli import options as opt
from amc.cli.commands.search import run_name, run_search
from amc.cli.commands.shared import (
    aligned,
    budget_texts,
    console,
    finetuning,
    images,
    latency_config,
    named_network,
    print_notes,
    set_threads,
)
from amc.cli.from_settings import settings_command
from amc.cli.given import Given
from amc.config import SearchConfig
from amc.errors import ConfigError

if TYPE_CHECKING:
    from amc.config import ModelConfig
    from amc.pipeline.source import Source


@settings_command(
    SearchConfig,
    defaults={"episodes": 0, "finetune.epochs": 0},
    helps={
        "data.spec": "`digits` (embedded), `imagefolder:DIR` (`train/` and `test/`), "
        "`cifar10:DIR`, or `none`: then the plan is made and cut, but not scored",
        "budget": "Upper bound on flops, params or latency, as in amc search; repeatable. "
        "Default: the plan's own MACs, as a fraction; a policy has none",
        "episodes": "Plans to try and to learn from, around what POLICY proposes; 0: its plan as "
        "it is",
    },
    basic=("run", "allow_factory"),
)
def replay(
    context: typer.Context,  # noqa: ARG001
    given: Given,
    source: opt.Source,
    model: opt.OptionalSpec = None,
    run: opt.NewRun = None,
    allow_factory: opt.AllowFactory = False,
) -> None:
    """Prune a network by what was learned on others: without a search, or with a short one.

    The policy of another search goes over the units of MODEL and says how much of each to keep,
    within the budget; the plan is cut, verified, scored once and tested:

        amc replay runs/NAME amc:resnet56 --weights W --data imagefolder:DIR --budget flops=0.5

    `--episodes 20` lets it learn from as many plans around its own. Then `amc finetune`, `amc
    apply` and `amc export` go on, and `amc search --resume` if it was interrupted.

    A plan.json in the policy's place is copied by role: to another checkpoint of its network unit
    by unit, to a sibling of another depth or width by kind, stage and relative depth.

    Without images (`--data none`) the plan is made and cut, and nothing is scored: then channels
    are ranked by the weights alone, and BatchNorm keeps its statistics.
    """
    from amc.pipeline.search import make_config
    from amc.pipeline.source import find_source
    from amc.records.run_folder import check_free, free_name
    from amc.vision.task import image_task

    set_threads(given["threads"])
    found = find_source(source, allow_factory=allow_factory)
    subject = named_network(given, model, "amc replay POLICY MODEL")
    image_set = None if given["data.spec"] == "none" else images(given)
    budget = budget_texts(given, [])
    values = given.settings()
    values.pop("budget", None)
    values |= {
        **found.settings,
        **aligned(given, *budget),
        "model": subject,
        "data": image_set,
        "latency": latency_config(given),
        "start": found.name,
        "finetune": finetuning(given),
    }
    config = make_config(budget or found.budget, **values)
    path = run or free_name(Path("runs"), run_name(config))
    check_free(path)  # before the images are read
    if image_set is None:
        if config.episodes or given["finetune.epochs"]:
            raise ConfigError("--data none: without images there is nothing to learn from")
        _cut_unscored(found, subject, config, given["data.image_size"], path)
        return
    task = image_task(
        subject,
        image_set,
        config.evaluate,
        seed=config.seed,
        device=config.device,
        check=True,
    )
    run_search(task, path, config, start=found)


def _cut_unscored(
    source: Source, network: ModelConfig, config: SearchConfig, side: int | None, path: Path
) -> None:
    """Write the plan and the sliced network, and nothing else."""
    from amc.models.factory import build_resolved, example_shape
    from amc.pipeline.replay import propose
    from amc.pruning.apply import cut
    from amc.pruning.checkpoint import save_model
    from amc.tracing.inputs import example_of
    from amc.utils.formatting import percent

    model, resolved, notes = build_resolved(network)
    print_notes(notes)
    channels, height, width = example_shape(network.spec)
    inputs = example_of(model, (1, channels, side or height, side or width))
    plan = propose(source, model, inputs, config.model_copy(update={"model": resolved}))
    small, _, error = cut(plan, model, inputs)
    path.mkdir(parents=True, exist_ok=True)
    plan.save(path / "plan.json")
    save_model(small, plan, path / "pruned.safetensors")
    console.print(
        f"plan        {percent(plan.kept['macs'])} of the MACs, "
        f"{percent(plan.kept['params'])} of the parameters (not scored)\n"
        f"verified    relative error {error:.1e}\n"
        f"network     {path / 'pruned.safetensors'} (BatchNorm as in the dense one)",
        highlight=False,
        soft_wrap=True,
    )
