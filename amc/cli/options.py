"""Options that set no field of the settings, and those that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from amc.utils.options import AGENT, PLAN, RUN

_SPEC = typer.Argument(
    metavar="MODEL", help="amc:NAME, torchvision:NAME, timm:NAME or path/to/file.py:function"
)
Spec = Annotated[str, _SPEC]
OptionalSpec = Annotated[str | None, _SPEC]
"""Optional beside ``--resume``, ``--model`` or a ``--config`` that names the network."""
Source = Annotated[
    str,
    typer.Argument(
        metavar="POLICY",
        help="A policy: its folder, that of the run which learned it, or its name in "
        "runs/policies; or a plan.json",
    ),
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, runs/NAME")]
NoBudget = Annotated[
    bool,
    typer.Option(
        "--no-budget",
        help="No upper bound: the reward weighs error against cost (--reward amc-flops)",
        rich_help_panel=PLAN,
    ),
]
Networks = Annotated[
    list[str],
    typer.Option(
        "--model",
        metavar="MODEL[@WEIGHTS]",
        help="Instead of MODEL, at least twice: train one policy on all of these in turn",
        rich_help_panel=AGENT,
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="Instead of MODEL: go on with the interrupted search in this folder, as it began; "
        "beside it only --episodes (more), --device, --threads and --allow-factory",
        rich_help_panel=RUN,
    ),
]
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
    typer.Option(help="Folder of the run; default: a new one in runs/", rich_help_panel=RUN),
]
CompareRun = Annotated[
    Path | None,
    typer.Option(
        help="Folder of the comparison: a new one (default: in runs/), or one to go on with",
        rich_help_panel=RUN,
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1, help="Searches side by side; default: as many as cores", rich_help_panel=RUN
    ),
]
AllowFactory = Annotated[
    bool,
    typer.Option("--allow-factory", help="Run the Python file that the run, plan or network names"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs")]
InputShape = Annotated[
    str | None,
    typer.Option("--input", help="Input shape C,H,W; default: what the network was made for"),
]
ExampleInputs = Annotated[
    str | None,
    typer.Option(
        "--inputs",
        metavar="FILE:FUNCTION",
        help="Instead of --input: a function in a Python file, which is run, that returns what the "
        "network is called with: a tensor, a tuple of arguments, a dict of keyword arguments, "
        "(args, kwargs), or amc.Inputs",
    ),
]
