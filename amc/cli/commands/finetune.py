"""``amc finetune``: the accuracy of a run's best plan recovered."""

from __future__ import annotations

from amc.cli import options as opt
from amc.cli.commands.shared import recover_plan, set_threads


def finetune(
    run: opt.Run,
    budget: opt.Choice = [],  # noqa: B006
    epochs: opt.Epochs = 15,
    lr: opt.LearningRate = 0.05,
    batch_size: opt.BatchSize = 128,
    distill_weight: opt.DistillWeight = 0.7,
    distill_temperature: opt.DistillTemperature = 4.0,
    seed: opt.Seed = 0,
    threads: opt.Threads = None,
    allow_factory: opt.AllowFactory = False,
) -> None:
    """Slice a run's best plan and recover its accuracy, with the dense network as teacher."""
    from amc.config import FinetuneConfig
    from amc.pipeline.recovery import choose, open_task
    from amc.records.run_folder import RunFolder

    set_threads(threads)
    recipe = FinetuneConfig.parse(
        {
            "epochs": epochs,
            "lr": lr,
            "batch_size": batch_size,
            "distill_weight": distill_weight,
            "distill_temperature": distill_temperature,
            "seed": seed,
        }
    )
    folder = choose(RunFolder.open(run), budget)
    recover_plan(open_task(folder, allow_factory=allow_factory), folder, recipe)
