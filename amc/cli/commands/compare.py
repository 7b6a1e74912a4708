"""``amc compare``: searchers side by side."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from amc.cli import options as opt
from amc.cli.commands.shared import (
    budget_texts,
    console,
    images,
    multiples,
    named_network,
    print_notes,
    problem_name,
    progress_bar,
    set_threads,
)
from amc.cli.from_settings import settings_command
from amc.cli.given import Given
from amc.comparison.settings import CompareConfig
from amc.registry import AGENTS


def _table() -> str:
    """The agents, as a table of Markdown."""
    rows = [f"| `{name}` | {AGENTS.entry(name).summary} |" for name in AGENTS.names()]
    return "\n".join(["| agent | what it does |", "|---|---|", *rows])


@settings_command(
    CompareConfig,
    helps={
        "search.budget": "Upper bound on flops (multiply-accumulates) or params: a fraction of "
        "MODEL's (`flops=0.5`) or a count (`params=1.2M`); repeatable. Default: `flops=0.5`",
        "search.round_to": "Keep multiples of so many channels: 8 (all units), or by kind of unit, "
        "`conv=8` (conv, linear, embedding, stream, heads); repeatable. Default: 1",
        "search.reward": "What scores a plan: kl (how far its outputs are from MODEL's), accuracy "
        "or cross_entropy",
    },
    basic=("run", "jobs", "as_json"),
    words={"AGENTS": _table()},
)
def compare(
    context: typer.Context,  # noqa: ARG001
    given: Given,
    model: opt.OptionalSpec = None,
    run: opt.CompareRun = None,
    jobs: opt.Jobs = None,
    as_json: opt.AsJson = False,
) -> None:
    """Compare the agent with other searchers, at equal numbers of evaluated plans, over seeds.

    Every searcher proposes plans in the same environment, on the same budget; the same images score
    them. No network is written. Needs `pip install amc-agent[compare]`.

    AGENTS

    The agent, greedy, CMA-ES and optuna's begin with the reference plan. Searches run side by side,
    each on one core. The folder receives runs.jsonl (a line a search,
    as it ends), compare.md, and compare.svg and compare.png. Interrupted, or for more agents and
    seeds, the same command with --run FOLDER does what is missing:

        amc compare amc:resnet20 --weights W --data imagefolder:DIR --run runs/mine --seeds 20
    """
    from functools import partial

    from amc.comparison.compare import compare as run_all
    from amc.comparison.compare import tables
    from amc.pipeline.search import make_config
    from amc.records.run_folder import free_name
    from amc.vision.task import image_task

    stated = given.inside("search")
    subject = named_network(stated, model, "amc compare MODEL")
    image_set = images(stated)
    values = {
        **stated.settings(),
        **multiples(stated),
        "model": subject,
        "data": image_set,
        "threads": 1,
    }
    for name in ("budget", "start"):
        values.pop(name, None)
    search = make_config(budget_texts(stated, ["flops=0.5"]), **values)
    config = CompareConfig.parse({**given.settings(), "search": search})
    set_threads(1)
    path = run or free_name(Path("runs"), f"{problem_name(search)}-compare")
    make_task = partial(
        image_task, subject, image_set, search.evaluate, device=search.device, progress=False
    )
    if not as_json:
        print_notes(make_task(check=True).notes)
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
