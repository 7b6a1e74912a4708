"""Options of the command line: what each is called, which values it takes, and its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_PLAN, _AGENT, _TUNING, _RUN = "The plan", "The agent", "Finetuning", "The run"
"""Panels of the help pages."""

# The network and its images

_SPEC = typer.Argument(
    metavar="MODEL", help="amc:NAME, torchvision:NAME, timm:NAME or path/to/file.py:function"
)
Spec = Annotated[str, _SPEC]
SpecUnlessResumed = Annotated[str | None, _SPEC]
Weights = Annotated[
    str | None, typer.Option(help="Trained weights: .safetensors, or .pth / .pt holding tensors")
]
ModelArg = Annotated[
    list[str], typer.Option("--model-arg", help="Argument of the model's factory, KEY=VALUE")
]
Data = Annotated[
    str, typer.Option(help="digits, imagefolder:DIR (train/ and test/) or cifar10:DIR")
]
SearchVal = Annotated[
    str | None, typer.Option(help="File of search-val paths, or the fraction to hold out")
]
ImageSize = Annotated[int | None, typer.Option(min=1, help="Resize folder images to this side")]
Download = Annotated[bool, typer.Option("--download", help="Let cifar10 be downloaded")]

# The plan

Budget = Annotated[
    list[str],
    typer.Option(
        help="Upper bound: flops=0.5 (a fraction), params=1.2M, or a range, flops=0.3:0.8, from "
        "which each episode draws; repeatable. Default: flops=0.5",
        rich_help_panel=_PLAN,
    ),
]
MinAccuracy = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Find the cheapest network that has this accuracy on search-val, within the budget, "
        "if one is given",
        rich_help_panel=_PLAN,
    ),
]
Minimise = Annotated[
    str, typer.Option(help="What is cheap then: macs or params", rich_help_panel=_PLAN)
]
NoBudget = Annotated[
    bool,
    typer.Option("--no-budget", help="Weigh error against cost (amc-flops)", rich_help_panel=_PLAN),
]
MinKeep = Annotated[
    float,
    typer.Option(min=0, max=1, help="Least kept fraction of a unit", rich_help_panel=_PLAN),
]
MinWidth = Annotated[
    int,
    typer.Option(
        min=1, help="Least kept width of a unit, in groups of channels", rich_help_panel=_PLAN
    ),
]
RoundTo = Annotated[
    list[str],
    typer.Option(
        help="Kept channels are multiples of this: 8 (all units) or by kind, conv=8 (conv, linear, "
        "embedding, stream, heads); repeatable",
        rich_help_panel=_PLAN,
    ),
]
Exclude = Annotated[
    list[str],
    typer.Option(
        help="Unit or layer to leave alone, by name or shell pattern, or kind:stream; repeatable",
        rich_help_panel=_PLAN,
    ),
]
GentleEnds = Annotated[
    bool,
    typer.Option(
        "--gentle-ends",
        help="Keep at least half of the stem, and of what the output layer reads",
        rich_help_panel=_PLAN,
    ),
]
AllowDrop = Annotated[
    bool,
    typer.Option(
        "--allow-drop",
        help="Residual branches may go altogether, so that a block becomes its shortcut",
        rich_help_panel=_PLAN,
    ),
]
Importance = Annotated[
    str | None,
    typer.Option(
        help="How channels are ranked. By training images: taylor (default), activation, entropy. "
        "By weights: contribution, l1, l2, bn-scale, geometric-median. Or: random",
        rich_help_panel=_PLAN,
    ),
]

# The agent

Agent = Annotated[
    str | None,
    typer.Option(
        help="expert, ddpg; baselines: uniform, random, knapsack, greedy, cma-es, tpe, gp",
        rich_help_panel=_AGENT,
    ),
]
Agents = Annotated[
    str,
    typer.Option(
        help="Searchers, separated by commas: expert, ddpg (with settings: ddpg:amc-paper), "
        "uniform, random, knapsack, greedy, cma-es, tpe, gp; the first is tested against the rest",
        rich_help_panel=_AGENT,
    ),
]
Seeds = Annotated[
    int,
    typer.Option(
        min=1,
        help="Searches with each agent; one suffices where nothing is random",
        rich_help_panel=_AGENT,
    ),
]
Evaluations = Annotated[
    str,
    typer.Option(
        help="Compare after so many evaluated plans; the last is the length of a search",
        rich_help_panel=_AGENT,
    ),
]
Preset = Annotated[str, typer.Option(help="Settings: default or amc-paper", rich_help_panel=_AGENT)]
Episodes = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Plans to try; default: the preset's; 0: only what --policy proposes",
        rich_help_panel=_AGENT,
    ),
]
Policy = Annotated[
    str | None,
    typer.Option(
        metavar="RUN-or-POLICY",
        help="Start from the policy of another run, on whatever network",
        rich_help_panel=_AGENT,
    ),
]
Reward = Annotated[
    str,
    typer.Option(
        help="kl, accuracy, cross_entropy; without budget amc-flops, amc-params",
        rich_help_panel=_AGENT,
    ),
]
Constraint = Annotated[
    str,
    typer.Option(
        help="projection, or sequential (the AMC paper's Algorithm 1)", rich_help_panel=_AGENT
    ),
]
Images = Annotated[
    int, typer.Option(min=1, help="Search-val images that score a plan", rich_help_panel=_AGENT)
]
CalibrationImages = Annotated[
    int,
    typer.Option(
        min=0,
        help="Training images that re-estimate BatchNorm statistics",
        rich_help_panel=_AGENT,
    ),
]

Reconstruct = Annotated[
    bool,
    typer.Option(
        "--reconstruct",
        help="Let layers make up for lost inputs by least squares, in every plan",
        rich_help_panel=_AGENT,
    ),
]

# Finetuning

Epochs = Annotated[
    int, typer.Option(min=0, help="Epochs; 0: no finetuning", rich_help_panel=_TUNING)
]
LearningRate = Annotated[
    float, typer.Option("--lr", help="Peak learning rate", rich_help_panel=_TUNING)
]
BatchSize = Annotated[
    int, typer.Option(min=1, help="Images of a training step", rich_help_panel=_TUNING)
]
DistillWeight = Annotated[
    float,
    typer.Option(
        min=0,
        max=1,
        help="Weight of the dense network's softened logits",
        rich_help_panel=_TUNING,
    ),
]
DistillTemperature = Annotated[
    float, typer.Option(min=0.1, help="How much they are softened", rich_help_panel=_TUNING)
]

# The run

Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Go on with the interrupted search in this folder, as it began; beside it only "
        "--episodes (more), --device, --threads and --allow-factory",
        rich_help_panel=_RUN,
    ),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, runs/NAME")]
Choice = Annotated[
    list[str],
    typer.Option(
        "--budget",
        help="Of a search over a range: take the best plan within flops=0.42, into a folder of its "
        "own inside the run's; repeatable",
    ),
]
NewRun = Annotated[
    Path | None,
    typer.Option(help="Folder of the run; default: a new one in runs/", rich_help_panel=_RUN),
]
CompareRun = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the comparison: a new one (default: in runs/), or one to go on with",
        rich_help_panel=_RUN,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1, help="Searches side by side; default: as many as cores", rich_help_panel=_RUN
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn", rich_help_panel=_RUN)]
Bf16 = Annotated[
    bool | None,
    typer.Option(
        "--bf16/--no-bf16", help="Default: where the hardware has it", rich_help_panel=_RUN
    ),
]
Device = Annotated[str, typer.Option(help="cpu or cuda", rich_help_panel=_RUN)]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; default: all", rich_help_panel=_RUN)
]
Workers = Annotated[
    int,
    typer.Option(
        min=1,
        help="Plans evaluated side by side, each in a process with its share of the threads",
        rich_help_panel=_RUN,
    ),
]
AllowFactory = Annotated[
    bool,
    typer.Option("--allow-factory", help="Run the Python file that the run, plan or network names"),
]
