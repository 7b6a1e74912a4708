"""Our plans and torch-pruning's, of as many MACs, finetuned by the same recipe.

torch-pruning prunes by each of its criteria, layer by layer (``local``) or over all layers
(``global``); its ratio is bisected until the network has at most the MACs of our plan. On ResNets
only the widths inside blocks are pruned, by all: torch-pruning does not follow shortcuts that pad.
Every network then gets BatchNorm statistics from the same images, and the same finetuning (all
defaults). Ours are the reference plan, and the best of a search.

A line for each plan and seed in ``results/peers-finetuned.jsonl``; those that are there are not
done again.

    python benchmarks/peers_finetuned.py --weights W --images DIR --search-val FILE --vgg U
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RESULTS, add_images, append_line, data_config, read_lines
from finetuning_common import (
    Lines,
    add_sizes,
    fewer,
    finetuned,
    on_device,
    parse_or_report,
    percent,
    plan_file,
    planned,
    right,
)
from peer_pruning import CRITERIA, macs_of, prune_to
from rich.console import Console
from rich.table import Table
from torch import nn

from amc.config import FinetuneConfig, ModelConfig
from amc.pruning.apply import apply_plan, cut
from amc.task import Task
from amc.vision.data import ImageData
from amc.vision.sources import load_data
from amc.vision.task import image_task

OURS = ("reference", "expert")
SCOPES = ("local", "global")


@dataclass(frozen=True)
class Pruned:
    """A sliced network before anything was made good."""

    model: nn.Module
    seconds: float
    """To the plan, of this process or of the one that found it."""


def main() -> None:
    """Prune and finetune what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="of amc:resnet20")
    parser.add_argument("--vgg", help="weights of amc:vgg11_bn (benchmarks/train.py makes them)")
    add_images(parser)
    add_sizes(parser, epochs=15, seeds=(0,))
    parser.add_argument("--episodes", type=int, default=150, help="of our search")
    parser.add_argument("--criteria", nargs="+", default=[*OURS, *CRITERIA])
    arguments = parse_or_report(parser, RESULTS / "peers-finetuned.jsonl", report)
    data = fewer(
        load_data(data_config(arguments)), arguments.training_images, arguments.test_images
    )
    data = on_device(data, arguments.device)
    for network, weights in (("resnet20", arguments.weights), ("vgg11_bn", arguments.vgg)):
        if weights is None:
            print(f"{network}: left out, no weights")
            continue
        config = ModelConfig(spec=f"amc:{network}", weights=weights)
        compare(arguments, network, image_task(config, data, device=arguments.device), data)
    report(arguments.results)


def compare(arguments: argparse.Namespace, network: str, task: Task, data: ImageData) -> None:
    """All plans of one network, a seed after the other."""
    done = {_identity(line) for line in read_lines(arguments.results)}
    dense_test = float(right(task.model, data, data.test, arguments.device).mean())
    makers = dict(plans(arguments, network, task))
    for seed in arguments.seeds:
        for name, make in makers.items():
            key = {
                **{"network": network, "plan": name, "seed": seed, "epochs": arguments.epochs},
                **{"training_images": len(data.train), "test_images": len(data.test)},
                **{"budget": arguments.budget, "asked_batch": arguments.batch_size},
                "episodes": arguments.episodes if name == "expert" else 1,
            }
            if _identity(key) in done:
                continue
            made = make()
            if made is None:
                continue
            model = made.model
            fields = {
                "dense_test": dense_test,
                "macs": macs_of(model, task.example_inputs)
                / macs_of(task.model, task.example_inputs),
                "seconds_to_plan": round(made.seconds, 1),
                "test_stale": float(right(model, data, data.test, arguments.device).mean()),
            }
            task.evaluate(model)  # recalibrates BatchNorm, as our plans have it
            recipe = FinetuneConfig(
                epochs=arguments.epochs, seed=seed, batch_size=arguments.batch_size
            )
            line = {**key, **fields, **finetuned(task, data, model, recipe, arguments.device)}
            append_line(arguments.results, line)
            print(
                f"{network}, {name}, seed {seed}: {line['macs']:.1%} of the MACs, test "
                f"{line['test_before']:.2%}, finetuned {line['test_after']:.2%}",
                flush=True,
            )


def _identity(line: dict[str, Any]) -> tuple[Any, ...]:
    return (*setting(line), line["plan"], line["seed"], line["episodes"])


def setting(line: dict[str, Any]) -> tuple[Any, ...]:
    """What must be equal for two lines to compare."""
    names = ("network", "epochs", "training_images", "test_images", "budget", "asked_batch")
    return tuple(line[name] for name in names)


def plans(
    arguments: argparse.Namespace, network: str, task: Task
) -> Iterator[tuple[str, Callable[[], Pruned | None]]]:
    """By name, what makes each pruned network."""
    work, budget = arguments.work, arguments.budget
    reference = plan_file(work, network, task, budget)
    for agent in OURS:
        if agent in arguments.criteria:
            episodes = arguments.episodes if agent == "expert" else 1
            path = plan_file(work, network, task, budget, agent, episodes)
            yield agent, _ours(task, path, budget, agent, episodes)
    for criterion in CRITERIA:
        if criterion in arguments.criteria:
            for scope in SCOPES:
                yield f"{criterion}, {scope}", _theirs(arguments, task, reference, criterion, scope)


def _ours(
    task: Task, path: Path, budget: str, agent: str, episodes: int
) -> Callable[[], Pruned | None]:
    def make() -> Pruned:
        plan, seconds = planned(task, path, budget, agent=agent, episodes=episodes)
        apply_plan(plan, task)  # proves it
        return Pruned(cut(plan, task.model, task.example_inputs)[0], seconds)

    return make


def _theirs(
    arguments: argparse.Namespace, task: Task, reference: Path, criterion: str, scope: str
) -> Callable[[], Pruned | None]:
    def make() -> Pruned | None:
        plan, _ = planned(task, reference, arguments.budget)
        start = time.perf_counter()
        model = prune_to(
            copy.deepcopy(task.model), task, plan.costs["macs"], criterion, scope == "global"
        )
        if model is None:
            print(f"{criterion}, {scope}: no ratio gives so few MACs, or it cannot be applied")
            return None
        return Pruned(model, time.perf_counter() - start)

    return make


# -- report --------------------------------------------------------------------------------------


def report(path: Path) -> None:
    """A table for each network and training, the best plan first."""
    lines = read_lines(path)
    for one in dict.fromkeys(map(setting, lines)):
        Console(width=150).print(_table([line for line in lines if setting(line) == one]))


def _table(lines: Lines) -> Table:
    first = lines[0]
    table = Table(
        title=f"{first['network']} at {first['budget']}, {first['epochs']} epochs on "
        f"{first['training_images']:,} images: test accuracy, % (dense "
        f"{100 * first['dense_test']:.2f})"
    )
    stages = ("as cut", "BatchNorm recalibrated", "finetuned")
    for heading in ("plan", "MACs", "seeds", *stages, "minus reference", "s to the plan"):
        table.add_column(heading, justify="right")
    reference = {x["seed"]: x["test_after"] for x in lines if x["plan"] == "reference"}
    names = dict.fromkeys((x["plan"], x["episodes"]) for x in lines)
    groups = {n: [x for x in lines if (x["plan"], x["episodes"]) == n] for n in names}
    tuned = {n: statistics.fmean(x["test_after"] for x in group) for n, group in groups.items()}
    for name in sorted(groups, key=lambda name: -tuned[name]):
        group = groups[name]
        against = [x["test_after"] - reference[x["seed"]] for x in group if x["seed"] in reference]
        table.add_row(
            _label(*name),
            f"{group[0]['macs']:.1%}",
            str(len(group)),
            *(percent([x[k] for x in group[:1]]) for k in ("test_stale", "test_before")),
            percent([x["test_after"] for x in group]),
            "" if name[0] == "reference" else percent(against, "+.2f"),
            f"{group[0]['seconds_to_plan']:.0f}",
        )
    return table


def _label(plan: str, episodes: int) -> str:
    if plan not in OURS:
        return f"torch-pruning: {plan}"
    return f"ours: {plan}" + (f", {episodes} plans" if episodes > 1 else "")


if __name__ == "__main__":
    main()
