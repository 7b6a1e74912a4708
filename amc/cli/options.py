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
Source = Annotated[
    str,
    typer.Argument(
        metavar="POLICY",
        help="A policy: its folder, that of the run which learned it, or its name in "
        "runs/policies; or a plan.json",
    ),
]
SpecUnlessResumed = Annotated[str | None, _SPEC]
Weights = Annotated[
    str | None,
    typer.Option(
        help="Trained weights: .safetensors, or .pth / .pt holding tensors; default: random, or "
        "what your own function loads"
    ),
]
ModelArg = Annotated[
    list[str],
    typer.Option("--model-arg", help="Argument of the model's factory, KEY=VALUE; repeatable"),
]
Data = Annotated[
    str, typer.Option(help="digits (embedded), imagefolder:DIR (train/ and test/) or cifar10:DIR")
]
OptionalData = Annotated[
    str,
    typer.Option(
        "--data",
        help="digits (embedded), imagefolder:DIR (train/ and test/), cifar10:DIR, or none: then "
        "the plan is made and cut, but not scored",
    ),
]
SearchVal = Annotated[
    str | None,
    typer.Option(
        help="Training images held out as search-val, on which plans are scored: a file of paths, "
        "or a fraction; default: 0.1"
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option(min=1, help="Resize and crop folder images to this side, in pixels"),
]
Download = Annotated[bool, typer.Option("--download", help="Download what cifar10:DIR lacks")]

# The plan

Budget = Annotated[
    list[str],
    typer.Option(
        help="Upper bound on flops (multiply-accumulates), params or latency (see --backend): a "
        "fraction of MODEL's (flops=0.5), a count or time (params=1.2M, latency=12ms), or a range "
        "from which each episode draws its own (flops=0.3:0.8); repeatable. Default: flops=0.5, "
        "with --min-accuracy none",
        rich_help_panel=_PLAN,
    ),
]
ReplayBudget = Annotated[
    list[str],
    typer.Option(
        "--budget",
        help="Upper bound on flops, params or latency, as in amc search; repeatable. "
        "Default: the plan's own MACs, as a fraction; a policy has none",
        rich_help_panel=_PLAN,
    ),
]
CompareBudget = Annotated[
    list[str],
    typer.Option(
        "--budget",
        help="Upper bound on flops (multiply-accumulates) or params: a fraction of MODEL's "
        "(flops=0.5) or a count (params=1.2M); repeatable",
        rich_help_panel=_PLAN,
    ),
]
MinAccuracy = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Find the cheapest network that has at least this accuracy on search-val before "
        "finetuning; a --budget holds as well",
        rich_help_panel=_PLAN,
    ),
]
Minimise = Annotated[
    str,
    typer.Option(
        help="With --min-accuracy, what the cheapest has least of: macs, params or latency_us",
        rich_help_panel=_PLAN,
    ),
]
NoBudget = Annotated[
    bool,
    typer.Option(
        "--no-budget",
        help="No upper bound: the reward weighs error against cost (--reward amc-flops)",
        rich_help_panel=_PLAN,
    ),
]
MinKeep = Annotated[
    float,
    typer.Option(min=0, max=1, help="Least fraction of a unit to keep", rich_help_panel=_PLAN),
]
MinWidth = Annotated[
    int,
    typer.Option(
        min=1,
        help="Least width of a unit to keep, in groups of channels (a head is one group)",
        rich_help_panel=_PLAN,
    ),
]
RoundTo = Annotated[
    list[str],
    typer.Option(
        help="Keep multiples of so many channels: 8 (all units), or by kind of unit, conv=8 (conv, "
        "linear, embedding, stream, heads); repeatable. Default: 1, or with latency auto: the "
        "grid on which plans of that latency keep the most",
        rich_help_panel=_PLAN,
    ),
]
Exclude = Annotated[
    list[str],
    typer.Option(
        help="Units to leave alone: a name or shell pattern of theirs or of a layer (layer1.*), or "
        "kind:stream; repeatable",
        rich_help_panel=_PLAN,
    ),
]
GentleEnds = Annotated[
    bool,
    typer.Option(
        "--gentle-ends",
        help="Keep at least half of what the first layer writes and the output layer reads",
        rich_help_panel=_PLAN,
    ),
]
AllowDrop = Annotated[
    bool,
    typer.Option(
        "--allow-drop",
        help="Let residual branches go altogether, so that a block becomes its shortcut",
        rich_help_panel=_PLAN,
    ),
]
Importance = Annotated[
    str | None,
    typer.Option(
        help="How a unit's channels are ranked; the last go first. By training images: taylor "
        "(default), activation, entropy. By weights: contribution, l1, l2, bn-scale, "
        "geometric-median. Or: random",
        rich_help_panel=_PLAN,
    ),
]

# The agent

Agent = Annotated[
    str | None,
    typer.Option(
        help="Who proposes plans: expert (default), ddpg (default of --preset amc-paper), or a "
        "baseline: uniform, reference, random, knapsack, greedy, cma-es, tpe, gp "
        "(amc compare --help)",
        rich_help_panel=_AGENT,
    ),
]
Agents = Annotated[
    str,
    typer.Option(
        help="Agents of the table above, with commas; the first is tested against every other",
        rich_help_panel=_AGENT,
    ),
]
Seeds = Annotated[
    int,
    typer.Option(
        min=1,
        help="Searches with each agent; one where nothing is random (uniform, reference, "
        "knapsack, greedy)",
        rich_help_panel=_AGENT,
    ),
]
Evaluations = Annotated[
    str,
    typer.Option(
        help="Compare after so many evaluated plans; the largest is the length of a search",
        rich_help_panel=_AGENT,
    ),
]
Preset = Annotated[
    str,
    typer.Option(
        help="Settings of the agent: default, or amc-paper (the paper's, for ddpg)",
        rich_help_panel=_AGENT,
    ),
]
Episodes = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Plans to try; default: 150 (amc-paper: 400)",
        rich_help_panel=_AGENT,
    ),
]
Networks = Annotated[
    list[str],
    typer.Option(
        "--model",
        metavar="MODEL[@WEIGHTS]",
        help="Instead of MODEL, at least twice: train one policy on all of these in turn",
        rich_help_panel=_AGENT,
    ),
]
Adaptation = Annotated[
    int,
    typer.Option(
        "--episodes",
        min=0,
        help="Plans to try and to learn from, around what POLICY proposes; 0: its plan as it is",
        rich_help_panel=_AGENT,
    ),
]
_QUALITY = (
    "What scores a plan: kl (how far its outputs are from MODEL's), accuracy or cross_entropy"
)
Reward = Annotated[
    str,
    typer.Option(
        help=f"{_QUALITY}; with --no-budget: amc-flops (its default), amc-params or amc-latency",
        rich_help_panel=_AGENT,
    ),
]
CompareReward = Annotated[str, typer.Option("--reward", help=_QUALITY, rich_help_panel=_AGENT)]
Constraint = Annotated[
    str,
    typer.Option(
        help="How plans meet the budget: projection (all units at once) or sequential (one after "
        "the other: the AMC paper's Algorithm 1)",
        rich_help_panel=_AGENT,
    ),
]
Images = Annotated[
    int, typer.Option(min=1, help="Search-val images that score a plan", rich_help_panel=_AGENT)
]
CalibrationImages = Annotated[
    int,
    typer.Option(
        min=0,
        help="Training images that re-estimate the BatchNorm statistics of every plan; 0: MODEL's",
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
    int, typer.Option(min=0, help="Epochs of finetuning; 0: none", rich_help_panel=_TUNING)
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
        help="Instead of MODEL: go on with the interrupted search in this folder, as it began; "
        "beside it only --episodes (more), --device, --threads and --allow-factory",
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
        "--bf16/--no-bf16",
        help="Compute in bfloat16; default: where the hardware has it",
        rich_help_panel=_RUN,
    ),
]
Device = Annotated[str, typer.Option(help="cpu or cuda", rich_help_panel=_RUN)]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="CPU threads; default: as PyTorch chooses", rich_help_panel=_RUN),
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

# Latency

_BACKENDS = "onnxruntime (default, where it is installed), torch, torch-compile or openvino"
Backend = Annotated[str | None, typer.Option(help=f"Runtime: {_BACKENDS}")]
LatencyBackend = Annotated[
    str | None,
    typer.Option(
        "--backend",
        help=f"Runtime in which latency is measured: {_BACKENDS}",
        rich_help_panel=_PLAN,
    ),
]
LatencyBatch = Annotated[
    int,
    typer.Option(min=1, help="Examples of the forward that is measured", rich_help_panel=_PLAN),
]
LatencyThreads = Annotated[
    int, typer.Option(min=1, help="CPU threads of that runtime", rich_help_panel=_PLAN)
]
