"""``amc compare``: searchers side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from amc.cli import options as opt
from amc.cli.commands.shared import (
    bounds,
    console,
    data_config,
    evaluation,
    model_config,
    problem_name,
    progress_bar,
    set_threads,
)


def compare(
    model: opt.Spec,
    weights: opt.Weights = None,
    model_arg: opt.ModelArg = [],  # noqa: B006 (typer reads the default)
    data: opt.Data = "digits",
    search_val: opt.SearchVal = None,
    image_size: opt.ImageSize = None,
    download: opt.Download = False,
    budget: opt.CompareBudget = ["flops=0.5"],  # noqa: B006
    min_keep: opt.MinKeep = 0.1,
    min_width: opt.MinWidth = 1,
    round_to: opt.RoundTo = ["1"],  # noqa: B006
    exclude: opt.Exclude = [],  # noqa: B006
    gentle_ends: opt.GentleEnds = False,
    allow_drop: opt.AllowDrop = False,
    importance: opt.Importance = None,
    agents: opt.Agents = "expert,ddpg,uniform,reference,random,knapsack,greedy,cma-es,tpe,gp",
    seeds: opt.Seeds = 10,
    evaluations: opt.Evaluations = "20,40,80,150",
    reward: opt.CompareReward = "kl",
    constraint: opt.Constraint = "projection",
    images: opt.Images = 1000,
    calibration_images: opt.CalibrationImages = 256,
    run: opt.CompareRun = None,
    jobs: opt.Jobs = None,
    bf16: opt.Bf16 = None,
    device: opt.Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs")] = False,
) -> None:
    """Compare the agent with other searchers, at equal numbers of evaluated plans, over seeds.

    Every searcher proposes plans in the same environment, on the same budget; the same images score
    them. No network is written. Needs `pip install amc-agent[compare]`.

    | agent      | what it does                                                           |
    |------------|------------------------------------------------------------------------|
    | `expert`   | the agent of `amc search`                                              |
    | `ddpg`     | the AMC paper's agent; `ddpg:amc-paper` with the paper's settings      |
    | `uniform`  | one plan: the same fraction of every unit                              |
    | `reference` | one plan: by what half of each unit alone loses, and by its gradient  |
    | `random`   | random plans on the budget                                             |
    | `knapsack` | one plan: the least summed importance lost within the budget           |
    | `greedy`   | changes one unit at a time, and keeps what is better (after NetAdapt)  |
    | `cma-es`   | evolution strategy                                                     |
    | `tpe`      | tree-structured Parzen estimator (optuna)                              |
    | `gp`       | Bayesian optimisation with a Gaussian process (optuna)                 |

    The agent, greedy, CMA-ES and optuna's begin with the reference plan. Searches run side by side,
    each on one core. The folder receives runs.jsonl (a line a search,
    as it ends), compare.md, and compare.svg and compare.png. Interrupted, or for more agents and
    seeds, the same command with --run FOLDER does what is missing:

        amc compare amc:resnet20 --weights W --data imagefolder:DIR --run runs/mine --seeds 20
    """
    from functools import partial

    from amc.comparison.compare import compare as run_all
    from amc.comparison.compare import tables
    from amc.config import CompareConfig
    from amc.pipeline.search import make_config
    from amc.records.run_folder import free_name
    from amc.vision.task import image_task

    network = model_config(model, weights, model_arg)
    image_set = data_config(data, search_val, image_size, download)
    allowed = bounds(min_keep, min_width, round_to, exclude, gentle_ends, allow_drop)
    search = make_config(
        budget,
        model=network,
        data=image_set,
        **allowed.model_dump(),
        importance=importance,
        reward=reward,
        constraint=constraint,
        evaluate=evaluation(images, calibration_images, bf16),
        device=device,
        threads=1,
    )
    config = CompareConfig.parse(
        {
            "agents": agents.split(","),
            "seeds": seeds,
            "evaluations": evaluations.split(","),
            "search": search,
        }
    )
    set_threads(1)
    path = run or free_name(Path("runs"), f"{problem_name(search)}-compare")
    make_task = partial(
        image_task, network, image_set, search.evaluate, device=device, progress=False
    )
    try:
        with progress_bar(quiet=as_json) as bar:
            comparison = run_all(
                make_task,
                config,
                path,
                workers=jobs,
                on_agent=bar.agent,
                on_note=bar.stage,
            )
    except KeyboardInterrupt:
        console.print(f"go on: the same command with --run {path}")
        raise
    if as_json:
        print(json.dumps({"run": str(path), **comparison.to_json()}, indent=1))
        return
    for table in tables(comparison):
        console.print(table)
    console.print(f"comparison  {path / 'compare.md'}")
