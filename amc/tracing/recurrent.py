"""Recurrent layers: the channels of their state, which all of their gates make and read.

A unit of the state is a row of each gate in the weights of the input and of the state, and a column
in those of the state. Layers and directions share one state tensor, so they shrink alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from torch import Tensor

from amc.tracing.rules import Call, Layer, Tracer, opaque, ride_along, rule


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(tracer: Tracer, call: Call) -> Any:
    """(N, T, K) and initial states to (N, T, directions * H) and final states.

    (PyTorch's counter finds no FLOPs in an LSTM that oneDNN runs; they are counted here.)
    """
    named = [x.name for x in call.operation._schema.arguments]
    given = dict(zip(named, call.args, strict=False)) | call.kwargs
    x, parameters = given["input" if "input" in given else "data"], given["params"]
    states = given["hx"] if isinstance(given["hx"], list | tuple) else [given["hx"]]
    directions = 2 if given["bidirectional"] else 1
    cells = list(_cells(parameters, given["num_layers"] * directions))
    if any(tracer.name_of(weight) is None for cell in cells for weight in cell):
        return opaque(tracer, call)
    hidden = tracer.ids.fresh(cells[0][1].shape[0] // _gates(cells[0]))
    out = _shared_state(tracer, states, hidden, cells[0])
    read, steps = tracer.ids.along(tracer.of(x), -1), prod(x.shape[:-1])
    for start in range(0, len(cells), directions):
        for cell in cells[start : start + directions]:
            _cell(tracer, cell, read, hidden, out, steps)
        read = out.repeat(directions)
    final = [ids.expand(y.shape) for ids, y in zip((out, hidden), call.out[1:], strict=False)]
    return (read.expand(call.out[0].shape), *final)


def _cells(parameters: Sequence[Tensor], count: int) -> Iterator[Sequence[Tensor]]:
    """Of each layer and direction: weights of input and state, biases, weight of a projection."""
    size = len(parameters) // count
    yield from (parameters[n * size : (n + 1) * size] for n in range(count))


def _gates(cell: Sequence[Tensor]) -> int:
    projected = len(cell) % 2 == 1
    return cell[1].shape[0] // (cell[-1] if projected else cell[1]).shape[1]


def _shared_state(
    tracer: Tracer, states: Sequence[Tensor], hidden: Tensor, cell: Sequence[Tensor]
) -> Tensor:
    """The ids of what the layer puts out: the hidden ones, unless a projection follows."""
    out = hidden
    if len(cell) % 2:  # PyTorch takes states of equal sizes for an LSTM without projections
        out = tracer.ids.fresh(cell[-1].shape[0])
        tracer.ids.freeze(hidden, "an LSTM has to have more units than it projects them to")
    for ids, state in zip((out, hidden), states, strict=False):
        tracer.ids.unite(ids, tracer.ids.along(tracer.of(state), -1))
    return out


def _cell(
    tracer: Tracer,
    cell: Sequence[Tensor],
    read: Tensor,
    hidden: Tensor,
    out: Tensor,
    steps: int,
) -> None:
    """One direction of one layer over ``steps`` inputs."""
    gates = hidden.repeat(_gates(cell))
    biases = cell[2:4] if len(cell) > 3 else []
    for weight, sources in zip(cell[:2], (read, out), strict=True):
        _matrix(tracer, weight, sources, gates, steps)
    for bias in biases:
        ride_along(tracer, bias, 0, gates)
    if len(cell) % 2:
        _matrix(tracer, cell[-1], hidden, out, steps)


def _matrix(tracer: Tracer, weight: Tensor, read: Tensor, made: Tensor, steps: int) -> None:
    name = tracer.name_of(weight)
    assert name is not None
    tracer.ids.use(name, 1, "in", read)
    tracer.ids.use(name, 0, "out", made)
    tracer.layers.append(
        Layer(
            name=name.replace(".weight_", "."),
            kind="recurrent",
            macs=steps * weight.numel(),
            macs_per_weight=steps,
            tensor=name,
            dims=(0, 1),
            in_channels=weight.shape[1],
            out_channels=weight.shape[0],
        )
    )
