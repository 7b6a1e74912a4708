"""Recurrent layers: which rows and columns a unit of the state is, and sliced layers by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from amc.cost.table import CostTable
from amc.pruning.find_units import find_units
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify

IN, HIDDEN, OUT = 5, 6, 4


class Around(nn.Module):
    """A layer before a recurrent one, and layers that read its output and its last state."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.embed = nn.Linear(3, IN)
        self.rnn = kind(IN, HIDDEN, **options)
        state = options.get("proj_size") or HIDDEN
        directions = 2 if options.get("bidirectional") else 1
        self.read = nn.Linear(directions * state, OUT)
        self.read_state = nn.Linear(state, OUT)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out, states = self.rnn(self.embed(x))
        return self.read(out), self.read_state(states[0] if isinstance(states, tuple) else states)


def around(kind: type[nn.RNNBase], **options: Any) -> tuple[Around, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Around(kind, **options).eval(), torch.randn(2, 7, 3)


GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


@pytest.mark.parametrize(
    ("layers", "bidirectional", "bias"),
    [(1, False, True), (2, True, True), (2, False, False)],
    ids=["one", "both ways", "without biases"],
)
@pytest.mark.parametrize("kind", GATES, ids=lambda kind: kind.__name__)
def test_a_unit_of_the_state_is_a_row_of_each_gate_and_a_column_of_every_reader(
    kind, layers, bidirectional, bias
):
    model, x = around(
        kind, num_layers=layers, bidirectional=bidirectional, bias=bias, batch_first=True
    )
    embedded, state = find_units(model, x)
    ends = [f"l{n}{way}" for n in range(layers) for way in ("", "_reverse")[: 1 + bidirectional]]
    assert {(s.tensor, s.dim) for s in embedded.slots if s.tensor.startswith("rnn")} == {
        (f"rnn.weight_ih_{end}", 1) for end in ends if end.startswith("l0")
    }
    rows = [HIDDEN * gate for gate in range(GATES[kind])]
    ways = [HIDDEN * way for way in range(1 + bidirectional)]
    expected = {("read.weight", 1): ways, ("read_state.weight", 1): [0]}
    for end in ends:
        expected |= {(f"rnn.weight_{x}h_{end}", 0): rows for x in "ih"}
        expected |= {(f"rnn.bias_{x}h_{end}", 0): rows for x in "ih" if bias}
        expected[f"rnn.weight_hh_{end}", 1] = [0]
        if not end.startswith("l0"):
            expected[f"rnn.weight_ih_{end}", 1] = ways
    assert {(s.tensor, s.dim): s.index[0].tolist() for s in state.slots} == expected
    assert state.width == HIDDEN


OPTIONS: dict[str, tuple[type[nn.RNNBase], dict[str, Any]]] = {
    **{kind.__name__: (kind, {"num_layers": 2, "bidirectional": True}) for kind in GATES},
    "projected LSTM": (nn.LSTM, {"proj_size": 3, "num_layers": 2, "bidirectional": True}),
    "relu": (nn.RNN, {"nonlinearity": "relu", "bias": False}),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of oneDNN, which knows no projections
def test_sliced_layers_state_their_sizes_and_cost_what_is_said(name):
    kind, options = OPTIONS[name]
    model, x = around(kind, **options)
    units = find_units(model, x)
    cost = CostTable(units)
    for widths in itertools.product(*([1, unit.width - 1] for unit in units)):
        small: Any = slice_model(model, units, widths)
        assert verify(model, small, units, widths, x) < 1e-5
        projected = small.rnn.proj_size or small.rnn.hidden_size
        assert (small.rnn.input_size, projected) == widths
        assert small.rnn.hidden_size == (HIDDEN if "proj_size" in options else widths[1])
        flags = torch.backends.mkldnn.flags(enabled=False)  # else an LSTM is not counted
        with flags, torch.no_grad(), FlopCounterMode(display=False) as counter:
            small(x)
        assert 2 * cost.macs(widths) == counter.get_total_flops()
        assert cost.params(widths) == sum(p.numel() for p in small.parameters())


class Translator(nn.Module):
    """The last state of one layer begins another."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.GRU(3, HIDDEN), nn.GRU(3, HIDDEN)
        self.read = nn.Linear(HIDDEN, OUT)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.encoder(x)
        out: Tensor = self.read(self.decoder(x.flip(0), state)[0])
        return out


def test_a_state_that_is_handed_on_ties_both_layers():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Translator().eval(), torch.randn(7, 2, 3)
    (state,) = find_units(model, x)
    assert state.width == HIDDEN
    assert {f"{side}.weight_hh_l0" for side in ("encoder", "decoder")} < {
        slot.tensor for slot in state.slots
    }


def test_a_sliced_gru_computes_the_equations_of_the_kept_units():
    """h' = (1 - z) n + z h, n = tanh(W x + b + r (U h + c)), without the units that went."""
    model, x = around(nn.GRU)
    units = find_units(model, x)
    widths = [IN, HIDDEN - 2]
    small: Any = slice_model(model, units, widths)
    kept = torch.from_numpy(units[1].kept(HIDDEN - 2).copy())
    rnn = model.rnn
    w, u = (p.unflatten(0, (3, HIDDEN))[:, kept] for p in (rnn.weight_ih_l0, rnn.weight_hh_l0))
    b, c = (p.view(3, HIDDEN)[:, kept] for p in (rnn.bias_ih_l0, rnn.bias_hh_l0))
    u = u[..., kept]
    h = torch.zeros(x.shape[1], len(kept))
    with torch.no_grad():
        for step in model.embed(x):
            from_x = [step @ w[gate].T + b[gate] for gate in range(3)]
            from_h = [h @ u[gate].T + c[gate] for gate in range(3)]
            r, z = (torch.sigmoid(from_x[gate] + from_h[gate]) for gate in range(2))
            h = (1 - z) * torch.tanh(from_x[2] + r * from_h[2]) + z * h
        out, _ = small.rnn(small.embed(x))
    torch.testing.assert_close(out[-1], h)
