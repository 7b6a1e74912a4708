"""What a unit is to its network: the stem, a residual stream, the hidden channels of an MLP, ..."""

from __future__ import annotations

from amc.tracing.rules import Layer
from amc.tracing.units import Unit, Units


def roles(units: Units) -> list[tuple[str, ...]]:
    """The roles of each unit, at least one.

    ``stem`` is what the first layer produces, ``last`` what an output layer reads. To a
    ``residual`` stream layers add that follow on those which read it; layers tied in another way
    (two summed branches, a gate) are ``tied``. ``MLP hidden`` lies between linear layers,
    ``attention`` are the heads of an attention block, all else is ``inner``.
    """
    order = {layer.tensor: number for number, layer in reversed([*enumerate(units.layers)])}
    kinds = {layer.tensor: layer.kind for layer in units.layers}
    stem, last = units.stem, units.last
    found = []
    for unit in units:
        readers = [x.tensor for x in unit.slots if x.purpose == "in" and x.tensor in order]
        names = ["stem"] if unit is stem else []
        names += ["last"] if unit in last else []
        if _is_residual(unit, min(order[tensor] for tensor in readers), order):
            names.append("residual")
        elif unit.kind == "heads":
            names.append("attention")
        elif {layer.kind for layer in unit.layers} | {kinds[x] for x in readers} == {"linear"}:
            names.append("MLP hidden")
        elif unit.kind == "stream":
            names.append("tied")
        found.append(tuple(names) or ("inner",))
    return found


def _is_residual(unit: Unit, first_reader: int, order: dict[str, int]) -> bool:
    lead = unit.layers[0]
    added = (layer for layer in unit.layers[1:] if not _is_gate(layer, lead))
    return any(order[layer.tensor] > first_reader for layer in added)


def _is_gate(layer: Layer, lead: Layer) -> bool:
    """Whether ``layer`` has one value for a whole feature map of ``lead``, as an excitation has."""
    return layer.macs_per_weight < lead.height * lead.width
