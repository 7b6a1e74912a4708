"""``amc inspect``: the units of a network."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from amc.bounds import Bounds
from amc.cli import options as opt
from amc.cli.commands.shared import (
    console,
    input_shape,
    multiples,
    named_network,
    print_notes,
    progress_bar,
)
from amc.cli.from_settings import settings_command
from amc.cli.given import Given
from amc.config import SearchConfig
from amc.errors import ConfigError


@settings_command(
    SearchConfig,
    helps={
        "round_to": "Keep multiples of so many channels: 8 (all units), or by kind of unit, "
        "`conv=8` (conv, linear, embedding, stream, heads); repeatable. Default: 1"
    },
)
def inspect(
    context: typer.Context,  # noqa: ARG001
    given: Given,
    model: opt.Spec,
    shape: opt.InputShape = None,
    inputs: opt.ExampleInputs = None,
    show_all: Annotated[
        bool, typer.Option("--all", help="A line for every unit: similar ones are not folded")
    ] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Show the units of a network, what is frozen and why, and what they cost.

    Every unit is verified against its masked twin before it is listed.
    """
    from amc.models.factory import build_resolved, example_shape
    from amc.pipeline.user_inputs import inputs_from_file
    from amc.pruning.find_units import find_units
    from amc.reporting.inspection import describe, print_inspection
    from amc.tracing.inputs import Inputs, example_of

    if shape and inputs:
        raise ConfigError("--input and --inputs: give one of them")
    widths = given.settings()
    widths.pop("model", None)
    allowed = Bounds.parse({**widths, **multiples(given)})
    built, _, notes = build_resolved(named_network(given, model, "amc inspect MODEL"))
    if not as_json:
        print_notes(notes)
    if inputs is None:
        wanted = input_shape(shape) or example_shape(model)
        example = Inputs(example_of(built, (1, *wanted)))
    else:
        example = inputs_from_file(inputs, built)
    with progress_bar(quiet=as_json) as bar:
        units = find_units(built, example, **allowed.model_dump(), on_unit=bar.unit)
    description = describe(model, units)
    if as_json:
        print(json.dumps(description, indent=1))
    else:
        print_inspection(console, description, folded=not show_all)
