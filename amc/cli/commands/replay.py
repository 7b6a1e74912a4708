"""``amc replay``: what was learned on one network, on another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from amc.cli import options as opt
from amc.cli.commands.search import run_name, run_search
from amc.cli.commands.shared import (
    aligned,
    bounds,
    console,
    data_config,
    evaluation,
    latency_config,
    model_config,
    set_threads,
)
from amc.errors import ConfigError

if TYPE_CHECKING:
    from amc.config import ModelConfig, SearchConfig
    from amc.pipeline.source import Source


def replay(
    source: opt.Source,
    model: opt.Spec,
    weights: opt.Weights = None,
    model_arg: opt.ModelArg = [],  # noqa: B006 (typer reads the default)
    data: opt.OptionalData = "digits",
    search_val: opt.SearchVal = None,
    image_size: opt.ImageSize = None,
    download: opt.Download = False,
    budget: opt.ReplayBudget = [],  # noqa: B006
    backend: opt.LatencyBackend = None,
    latency_batch: opt.LatencyBatch = 1,
    latency_threads: opt.LatencyThreads = 1,
    min_keep: opt.MinKeep = 0.1,
    min_width: opt.MinWidth = 1,
    round_to: opt.RoundTo = [],  # noqa: B006
    exclude: opt.Exclude = [],  # noqa: B006
    gentle_ends: opt.GentleEnds = False,
    allow_drop: opt.AllowDrop = False,
    importance: opt.Importance = None,
    episodes: opt.Adaptation = 0,
    reward: opt.CompareReward = "kl",
    images: opt.Images = 1000,
    calibration_images: opt.CalibrationImages = 256,
    reconstruct: opt.Reconstruct = False,
    epochs: opt.Epochs = 0,
    lr: opt.LearningRate = 0.05,
    run: opt.NewRun = None,
    seed: opt.Seed = 0,
    bf16: opt.Bf16 = None,
    device: opt.Device = "cpu",
    threads: opt.Threads = None,
    workers: opt.Workers = 1,
    allow_factory: opt.AllowFactory = False,
) -> None:
    """Prune a network by what was learned on others: without a search, or with a short one.

    The policy of another search walks through the units of MODEL and says how much of each to keep,
    within the budget; the plan is cut, verified, scored once and tested:

        amc replay runs/NAME amc:resnet56 --weights W --data imagefolder:DIR --budget flops=0.5

    `--episodes 20` lets it learn from as many plans around its own. Then `amc finetune`, `amc
    apply` and `amc export` go on, and `amc search --resume` if it was interrupted.

    A plan.json in the policy's place is copied by role: to another checkpoint of its network unit
    by unit, to a sibling of another depth or width by kind, stage and relative depth.

    Without images (`--data none`) the plan is made and cut, and nothing is scored: then channels
    are ranked by the weights alone, and BatchNorm keeps its statistics.
    """
    from amc.config import FinetuneConfig
    from amc.pipeline.search import make_config
    from amc.pipeline.source import find_source
    from amc.records.run_folder import check_free, free_name
    from amc.vision.task import image_task

    set_threads(threads)
    found = find_source(source, allow_factory=allow_factory)
    network = model_config(model, weights, model_arg)
    unscored = data == "none"
    image_set = None if unscored else data_config(data, search_val, image_size, download)
    align, multiples = aligned(round_to, *budget)
    allowed = bounds(min_keep, min_width, multiples, exclude, gentle_ends, allow_drop)
    config = make_config(
        budget or found.budget,
        model=network,
        data=image_set,
        **allowed.model_dump(),
        **found.settings,
        align=align,
        latency=latency_config(backend, latency_batch, latency_threads, device),
        start=found.name,
        episodes=episodes,
        importance=importance,
        reward=reward,
        evaluate=evaluation(images, calibration_images, bf16, reconstruct),
        finetune=FinetuneConfig.parse({"epochs": epochs, "lr": lr, "seed": seed, "bf16": bf16}),
        seed=seed,
        device=device,
        threads=threads,
        workers=workers,
    )
    path = run or free_name(Path("runs"), run_name(config))
    check_free(path)  # before the images are read
    if image_set is None:
        if episodes or epochs:
            raise ConfigError("--data none: without images there is nothing to learn from")
        _cut_unscored(found, network, config, image_size, path)
        return
    task = image_task(network, image_set, config.evaluate, seed=seed, device=device)
    run_search(task, path, config, start=found)


def _cut_unscored(
    source: Source, network: ModelConfig, config: SearchConfig, side: int | None, path: Path
) -> None:
    """Write the plan and the sliced network, and nothing else."""
    import torch

    from amc.models.factory import build_resolved, example_shape
    from amc.pipeline.replay import propose
    from amc.pruning.apply import cut
    from amc.pruning.checkpoint import save_model
    from amc.utils.formatting import percent

    model, resolved = build_resolved(network)
    channels, height, width = example_shape(network.spec)
    inputs = torch.randn(
        (1, channels, side or height, side or width), generator=torch.Generator().manual_seed(0)
    )
    plan = propose(source, model, inputs, config.model_copy(update={"model": resolved}))
    small, _, error = cut(plan, model, inputs)
    path.mkdir(parents=True, exist_ok=True)
    plan.save(path / "plan.json")
    save_model(small, plan, path / "pruned.safetensors")
    console.print(
        f"plan        {percent(plan.costs['macs'] / plan.dense_costs['macs'])} of the MACs, "
        f"{percent(plan.costs['params'] / plan.dense_costs['params'])} of the parameters (not scored)\n"
        f"verified    relative error {error:.1e}\n"
        f"network     {path / 'pruned.safetensors'} (BatchNorm as in the dense one)",
        highlight=False,
        soft_wrap=True,
    )
