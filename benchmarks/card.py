"""A trained policy into the library, ``runs/policies/NAME``, with a card: what it reaches where.

    python benchmarks/card.py runs/cifar-resnets --images DIR --search-val FILE
        --nets resnet20=W resnet56=V --trained-by 'amc search --model ...'

The policy is replayed on each network under each budget, on those that it was trained on and on
others; its plan, the reference plan and the uniform one are scored on search-val, not finetuned.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import add_images, data_config

from amc.agents.policy import Policy
from amc.agents.warm_start import Start
from amc.config import EvaluateConfig, ModelConfig
from amc.envs.make import make_problem
from amc.pipeline.search import make_config
from amc.pipeline.source import LIBRARY
from amc.task import Task
from amc.vision.sources import load_data
from amc.vision.task import image_task

BUDGETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def main() -> None:
    """Score, then write the policy and its card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", type=Path, help="folder of the run that learned it")
    parser.add_argument("--nets", nargs="+", required=True, help="NAME=WEIGHTS, amc's own networks")
    add_images(parser)
    parser.add_argument("--trained-by", required=True, help="the command, for the card")
    parser.add_argument("--name", help="in the library; default: the folder's")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    policy = Policy.load(arguments.policy)
    name = arguments.name or arguments.policy.name
    images, rows = load_data(data_config(arguments)), []
    seen = {one.network for one in policy.trained_on.networks}
    for network, weights in (net.split("=", 1) for net in arguments.nets):
        model = ModelConfig(spec=f"amc:{network}", weights=weights)
        task = image_task(model, images, EvaluateConfig(), seed=0)
        label = network if model.spec in seen else f"{network}, never seen"
        rows += [f"| {label} | {row} |" for row in scores(policy, task)]
    policy.save(LIBRARY / name)
    (LIBRARY / name / "README.md").write_text(card(name, policy, rows, arguments.trained_by))
    print((LIBRARY / name / "README.md").read_text())


def scores(policy: Policy, task: Task) -> list[str]:
    """A row for each budget: what the policy's plan, the reference plan and the uniform reach."""
    rows = []
    for fraction in BUDGETS:
        problem = make_problem(
            task, make_config(f"flops={fraction}")
        )  # as a replay under this budget does
        start, budget = Start.of_policy(policy, problem), problem.budget
        proposals = start.plan(budget), problem.reference(budget), problem.uniform(budget)
        episodes = [problem.score(proposal) for proposal in proposals]
        cells = (f"{e.quality['accuracy']:.1%} (KL {e.quality['kl']:.3f})" for e in episodes)
        rows.append(f"{fraction:g} | {' | '.join(cells)}")
        print(rows[-1], flush=True)
    return rows


def card(name: str, policy: Policy, rows: list[str], command: str) -> str:
    """The policy in words."""
    trained = policy.trained_on
    learned = ", ".join(f"{one.network} ({one.episodes} plans)" for one in trained.networks)
    limits = ", ".join(f"{quantity} {bound}" for quantity, bound in trained.budget.items())
    parts = [
        f"# {name}",
        f"Trained on {learned}, seed {trained.seed}, under budgets drawn from: {limits} of the "
        "dense network.",
        f"```\n{command}\n```",
        "Replayed under each budget, no search; search-val accuracy before finetuning:",
        "\n".join(
            [
                "| network | flops | this policy | reference | uniform |",
                "|---|---|---|---|---|",
                *rows,
            ]
        ),
        f"```\namc replay {name} MODEL --weights W --data imagefolder:DIR --budget flops=0.5\n```",
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main()
