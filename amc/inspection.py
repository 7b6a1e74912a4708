"""What ``amc inspect`` shows: units, what is frozen and why, and what pruning can reach."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from amc.cost import CostTable, prunable_fraction
from amc.units import Units

_SHOWN_MEMBERS = 3


def describe(name: str, units: Units) -> dict[str, Any]:
    """A network's units and costs as plain values, ready for JSON.

    Shares are fractions of the dense network; ``macs_share`` counts a layer between two units half
    for either. ``least`` is the cost at every unit's least allowed width.
    """
    cost = CostTable(units)
    least = [unit.widths[0] for unit in units]
    return {
        "format": "amc.inspect/1",
        "model": name,
        "macs": cost.dense_macs,
        "params": cost.dense_params,
        "prunable_macs_share": prunable_fraction(units),
        "least": {"macs": cost.macs(least), "params": cost.params(least)},
        "units": [
            {
                "name": unit.name,
                "kind": unit.kind,
                "width": unit.width,
                "granularity": unit.granularity,
                "members": [layer.name for layer in unit.layers],
                "macs_share": float(share) / cost.dense_macs,
                "params_share": _params_share(cost, number),
                "least_width": unit.widths[0],
                "multiple": unit.multiple,
            }
            for number, (unit, share) in enumerate(zip(units, cost.unit_macs, strict=True))
        ],
        "frozen": [
            {"name": frozen.name, "channels": frozen.channels, "reason": frozen.reason}
            for frozen in units.frozen
        ],
    }


def _params_share(cost: CostTable, number: int) -> float:
    """Share of the parameters that go if this unit alone went down to one group."""
    widths = list(cost.units.dense_widths)
    widths[number] = 1
    return 1 - cost.params(widths) / cost.dense_params


def print_inspection(console: Console, description: dict[str, Any]) -> None:
    """Show :func:`describe`'s result as tables."""
    table = Table(title=f"{description['model']}: {len(description['units'])} prunable units")
    for heading in ("unit", "kind", "width", "members", "MACs", "params", "keep"):
        table.add_column(
            heading, justify="left" if heading in ("unit", "kind", "members") else "right"
        )
    for unit in description["units"]:
        group = f" × {unit['granularity']}" if unit["granularity"] > 1 else ""
        steps = f" by {unit['multiple']}" if unit["multiple"] > 1 else ""
        table.add_row(
            unit["name"],
            unit["kind"],
            f"{unit['width']}{group}",
            _members(unit["members"]),
            f"{unit['macs_share']:.1%}",
            f"{unit['params_share']:.1%}",
            f"{unit['least_width']}..{unit['width']}{steps}",
        )
    console.print(table)
    if description["frozen"]:
        frozen_table = Table(title="left alone")
        for heading in ("layer", "channels", "reason"):
            frozen_table.add_column(heading, overflow="fold")
        for frozen in description["frozen"]:
            frozen_table.add_row(frozen["name"], str(frozen["channels"]), frozen["reason"])
        console.print(frozen_table)
    macs, params, least = description["macs"], description["params"], description["least"]
    console.print(
        f"dense       {macs:,} MACs, {params:,} parameters\n"
        f"prunable    {description['prunable_macs_share']:.1%} of the MACs: layers that some unit "
        "can shrink\n"
        f"least       {least['macs']:,} MACs ({least['macs'] / macs:.1%}), "
        f"{least['params']:,} parameters ({least['params'] / params:.1%})"
    )


def _members(names: list[str]) -> str:
    more = len(names) - _SHOWN_MEMBERS
    return ", ".join(names[:_SHOWN_MEMBERS]) + (f", +{more}" if more > 0 else "")
