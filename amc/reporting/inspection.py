"""What ``amc inspect`` shows: units, what is frozen and why, and what pruning can reach."""

from __future__ import annotations

import re
from collections import defaultdict
from math import prod
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from amc.cost.table import CostTable, prunable_fraction
from amc.reporting.plain_table import plain_table
from amc.tracing.roles import roles
from amc.tracing.units import GENTLE_KEEP, Unit, Units, least_width
from amc.utils.formatting import percent
from amc.utils.name_patterns import group_names, shortest_patterns

_SHOWN_NAMES = 3
_ENDS = {"stem", "last"}


def describe(name: str, units: Units) -> dict[str, Any]:
    """A network's units and costs as plain values, ready for JSON.

    Shares are fractions of the dense network; a weight between two units counts half for either,
    so that those of all units add up to 1 at most. ``least`` is the cost at every unit's least
    allowed width. Widths count groups of ``granularity`` channels, ``multiple`` is their step;
    ``suggested_least_width`` is what ``gentle_ends`` asks for; a ``droppable`` unit may also go.
    """
    cost = CostTable(units)
    least = [unit.widths[0] for unit in units]
    rows = zip(units, roles(units), cost.unit_macs, strict=True)
    return {
        "format": "amc.inspect/1",
        "model": name,
        "macs": cost.dense("macs"),
        "params": cost.dense("params"),
        "prunable_macs_share": prunable_fraction(units),
        "prunable_params_share": _prunable_params(units) / cost.dense("params"),
        "least": {"macs": cost.macs(least), "params": cost.params(least)},
        "units": [
            {
                "name": unit.name,
                "kind": unit.kind,
                "roles": list(names),
                "width": unit.width,
                "granularity": unit.granularity,
                "members": [layer.name for layer in unit.layers],
                "macs_share": float(macs) / max(1, cost.dense("macs")),
                "params_share": _params(unit, units) / cost.dense("params"),
                "least_width": unit.widths[1 if unit.droppable else 0],
                "droppable": unit.droppable,
                "multiple": unit.multiple,
                "suggested_least_width": _suggested(unit, names),
            }
            for unit, names, macs in rows
        ],
        "frozen": [
            {"name": frozen.name, "channels": frozen.channels, "reason": frozen.reason}
            for frozen in units.frozen
        ],
        "notes": _notes(units),
    }


def _notes(units: Units) -> list[str]:
    """What the counts leave out, and what pruning may leave behind."""
    notes = [f"{operation}: its arithmetic is not counted" for operation in units.uncounted]
    if units.unclear:
        names = ", ".join(f"{x.attribute}={x.value}" for x in units.unclear[:_SHOWN_NAMES])
        more = len(units.unclear) - _SHOWN_NAMES
        notes.append(
            f"attributes that keep the dense sizes when their layers shrink: {names}"
            + (f", {more} more" if more > 0 else "")
        )
    return notes


def _params(unit: Unit, units: Units) -> float:
    """Dense parameters that the unit controls: its share of each tensor, half of what has a reader
    and a writer."""
    return sum(
        prod(units.parameters[slot.tensor])
        * (slot.index.size / units.sizes[slot.tensor][slot.dim])
        / slot.owners
        for slot in unit.slots
        if slot.tensor in units.parameters
    )


def _prunable_params(units: Units) -> int:
    """Parameters in tensors that some unit can make smaller."""
    touched = {slot.tensor for unit in units for slot in unit.slots} & units.parameters.keys()
    return sum(prod(units.parameters[tensor]) for tensor in touched)


def _suggested(unit: Unit, names: tuple[str, ...]) -> int:
    least = least_width(GENTLE_KEEP, unit.width) if _ENDS & {*names} else 1
    return next(width for width in unit.widths if width >= least)


def print_inspection(console: Console, description: dict[str, Any], *, folded: bool = True) -> None:
    """Show :func:`describe`'s result as tables, similar units ``folded`` into one line."""
    units = description["units"]
    lines = _grouped(units) if folded else [(unit["name"], [unit]) for unit in units]
    console.print(
        f"[bold]{escape(description['model'])}[/]: {len(units)} prunable units\n", highlight=False
    )
    console.print(_unit_table(lines))
    if len(lines) < len(units):
        console.print("Similar units share a line, their shares added up; --all shows each.")
    tied = [line for line in lines if len(line[1][0]["members"]) > 1]
    if tied:
        console.print("", _tied_table(tied))
    if description["frozen"]:
        console.print("", _frozen_table(description["frozen"]))
    console.print("", _summary(description))
    for note in description["notes"]:
        console.print(f"note      {escape(note)}", highlight=False)


Line = tuple[str, list[dict[str, Any]]]
"""A name, and the units that it stands for."""


def _grouped(units: list[dict[str, Any]]) -> list[Line]:
    own = ("name", "members", "macs_share", "params_share")
    alike = [
        (repr([unit[key] for key in unit if key not in own]), len(unit["members"]))
        for unit in units
    ]
    names = [unit["name"] for unit in units]
    return [(name, [units[n] for n in numbers]) for name, numbers in group_names(names, alike)]


def _unit_table(lines: list[Line]) -> Table:
    table = plain_table(
        *("unit", "", "kind", "role", "keep", "MACs", "params"),
        right=("", "keep", "MACs", "params"),
    )
    for name, units in lines:
        unit = units[0]
        group = f" × {unit['granularity']}" if unit["granularity"] > 1 else ""
        nothing = "0, " if unit["droppable"] else ""
        steps = f" by {unit['multiple']}" if unit["multiple"] > 1 else ""
        table.add_row(
            escape(name),
            _times(units),
            unit["kind"],
            ", ".join(unit["roles"]),
            f"{nothing}{unit['least_width']}..{unit['width']}{steps}{group}",
            percent(sum(x["macs_share"] for x in units)),
            percent(sum(x["params_share"] for x in units)),
        )
    return table


def _tied_table(lines: list[Line]) -> Table:
    table = plain_table("unit", "layers tied into it")
    for name, units in lines:
        members = [member for unit in units for member in unit["members"]]
        table.add_row(escape(name), escape(", ".join(shortest_patterns(members))))
    return table


def _frozen_table(frozen: list[dict[str, Any]]) -> Table:
    """One line a reason, up to the numbers in it."""
    by_reason: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for channels in frozen:
        by_reason[re.sub(r"\d+", "#", channels["reason"])].append(channels)
    table = plain_table("left alone", "", "channels", "reason", right=("", "channels"))
    for alike in by_reason.values():
        patterns = shortest_patterns([channels["name"] for channels in alike])
        more = len(patterns) - _SHOWN_NAMES
        table.add_row(
            escape(", ".join(patterns[:_SHOWN_NAMES])) + (f", {more} more" if more > 0 else ""),
            _times(alike),
            str(sum(channels["channels"] for channels in alike)),
            escape(_common([channels["reason"] for channels in alike])),
        )
    return table


def _common(reasons: list[str]) -> str:
    """Reasons that are equal up to numbers, as one."""
    parts = zip(*(re.split(r"(\d+)", reason) for reason in reasons), strict=True)
    return "".join(part[0] if len({*part}) == 1 else "…" for part in parts)


def _times(alike: list[dict[str, Any]]) -> str:
    return f"×{len(alike)}" if len(alike) > 1 else ""


def _summary(description: dict[str, Any]) -> Table:
    macs, params, least = description["macs"], description["params"], description["least"]
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_row("dense", f"{macs:,} MACs, {params:,} parameters")
    table.add_row(
        "prunable",
        f"{percent(description['prunable_macs_share'])} of the MACs, "
        f"{percent(description['prunable_params_share'])} of the parameters "
        "(of layers that some unit can shrink)",
    )
    table.add_row(
        "least",
        f"{least['macs']:,} MACs ({percent(least['macs'] / max(1, macs))}), "
        f"{least['params']:,} parameters ({percent(least['params'] / params)})",
    )
    ends = _gentle_ends(description["units"])
    if ends:
        table.add_row("suggested", f"keep at least {escape(', '.join(ends))}: --gentle-ends")
    return table


def _gentle_ends(units: list[dict[str, Any]]) -> list[str]:
    """What --gentle-ends would keep of the ends of the network, where that is more than now."""
    ends = [unit for unit in units if unit["suggested_least_width"] > unit["least_width"]]
    alike = [(unit["suggested_least_width"], *unit["roles"]) for unit in ends]
    return [
        f"{ends[numbers[0]]['suggested_least_width']} of {name} "
        f"({', '.join(role for role in ends[numbers[0]]['roles'] if role in _ENDS)})"
        for name, numbers in group_names([unit["name"] for unit in ends], alike)
    ]
