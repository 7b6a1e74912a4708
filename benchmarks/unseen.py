"""What a search finds on its search-val images, on images that it never saw.

The best of many plans is partly the one that suits the images that score it. Reads finished
searches on one network (``RUN``, folders of ``amc search`` or of ``replay.py``), and scores the
best plan after so many on ``--test-images`` of the test split, BatchNorm re-estimated on training
images that were not the search's. Beside them the uniform plan of ``--budget``, and what a
``--policy`` says without a search. Ends with ``results/unseen-NETWORK.md``: medians (ranges).

    python benchmarks/unseen.py RUN... --network resnet20 --weights W --images DIR --search-val FILE
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from common import RESULTS, add_inputs, cell, configs

from amc.agents.policy import Policy
from amc.agents.warm_start import Start
from amc.config import EvaluateConfig
from amc.envs.make import make_problem
from amc.pipeline.search import make_config
from amc.pruning.slicing.slice import slice_model
from amc.records.episode import read_episodes
from amc.records.run_folder import RunFolder
from amc.vision.evaluator import Evaluator, Quality
from amc.vision.sources import load_data
from amc.vision.task import image_task

MARKS = (1, 20, 40, 80, 150)
"""Plans after which the best so far is scored; the first is the plan that a search begins with."""
CALIBRATION = 1024
OTHER_SEED = 1
"""Draws other images than a task's own."""


def main() -> None:
    """Score, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    add_inputs(parser)
    parser.add_argument("--budget", default="flops=0.5", help="of the searches")
    parser.add_argument("--policy", type=Path, help="of other networks")
    parser.add_argument("--test-images", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model, data = configs(arguments)
    images = load_data(data)
    task = image_task(model, images, EvaluateConfig(), seed=0)
    if arguments.policy is None:
        task = replace(task, probe=None)  # only a policy asks
    problem = make_problem(task, make_config(arguments.budget))
    settings = EvaluateConfig(images=arguments.test_images, calibration_images=CALIBRATION)
    unseen = Evaluator.from_data(
        task.model, replace(images, search_val=images.test), settings, OTHER_SEED
    )

    @cache
    def score(widths: tuple[int, ...]) -> Quality:
        return unseen(slice_model(task.model, problem.units, widths))

    rows = ["| plans | searches | KL, search-val | KL, test | accuracy, test |", "|---" * 5 + "|"]
    at_once = {"uniform": problem.uniform()}
    if arguments.policy is not None:
        (budget,) = problem.budgets.spread(1)
        at_once["policy"] = Start.of_policy(Policy.load(arguments.policy), problem).plan(budget)
    for name, proposal in at_once.items():
        seen = [problem.evaluate(proposal.widths)["kl"]]
        rows.append(row(name, seen, [score(proposal.widths)]))
    print("\n".join(rows), flush=True)
    histories = [read_episodes(RunFolder(run).episodes) for run in arguments.runs]
    for mark in MARKS:
        bests = [
            min(history[:mark], key=lambda episode: episode.quality["kl"])
            for history in histories
            if len(history) >= mark
        ]
        if bests:
            seen = [best.quality["kl"] for best in bests]
            rows.append(row(str(mark), seen, [score(best.widths) for best in bests]))
            print(rows[-1], flush=True)
    (RESULTS / f"unseen-{arguments.network}.md").write_text("\n".join(rows) + "\n")


def row(plans: str, seen: Sequence[float], test: Sequence[Quality]) -> str:
    """What was found, on either images: KLs where it was searched, and all of it on test."""
    kl, accuracy = [q.kl for q in test], [q.accuracy for q in test]
    cells = [cell(seen), cell(kl), cell(accuracy, ".1%")]
    return f"| {plans} | {len(seen)} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
