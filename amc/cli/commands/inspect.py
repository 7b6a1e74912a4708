"""``amc inspect``: the units of a network."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from amc.cli import options as opt
from amc.cli.commands.shared import bounds, console, input_shape, model_config, progress_bar


def inspect(
    model: opt.Spec,
    weights: opt.Weights = None,
    model_arg: opt.ModelArg = [],  # noqa: B006 (typer reads the default)
    shape: Annotated[
        str | None, typer.Option("--input", help="Input shape C,H,W; default: 3,32,32 or 3,224,224")
    ] = None,
    min_keep: opt.MinKeep = 0.1,
    min_width: opt.MinWidth = 1,
    round_to: opt.RoundTo = ["1"],  # noqa: B006
    exclude: opt.Exclude = [],  # noqa: B006
    gentle_ends: opt.GentleEnds = False,
    allow_drop: opt.AllowDrop = False,
    show_all: Annotated[
        bool, typer.Option("--all", help="A line for every unit: similar ones are not folded")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs")] = False,
) -> None:
    """Show the units of a network, what is frozen and why, and what they cost.

    Every unit is verified against its masked twin before it is listed.
    """
    import torch

    from amc.models.factory import build_model, example_shape
    from amc.pruning.find_units import find_units
    from amc.reporting.inspection import describe, print_inspection

    allowed = bounds(min_keep, min_width, round_to, exclude, gentle_ends, allow_drop)
    network = build_model(model_config(model, weights, model_arg))
    wanted = input_shape(shape) or example_shape(model)
    example = torch.randn(1, *wanted, generator=torch.Generator().manual_seed(0))
    with progress_bar(quiet=as_json) as bar:
        units = find_units(network, example, **allowed.model_dump(), on_unit=bar.unit)
    description = describe(model, units)
    if as_json:
        print(json.dumps(description, indent=1))
    else:
        print_inspection(console, description, folded=not show_all)
