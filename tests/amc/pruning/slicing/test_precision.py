"""Networks of any kind of numbers are pruned, proven, counted, saved and rebuilt as their own."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from amc.config import ModelConfig
from amc.cost.table import CostTable
from amc.errors import VerificationError
from amc.latency.backends.torch_eager import TorchEager
from amc.models.weights import weights_sha256
from amc.pruning import checkpoint
from amc.pruning.checkpoint import load_model, save_model
from amc.pruning.find_units import find_units
from amc.pruning.importance.evidence import Evidence
from amc.pruning.importance.taylor import gate_gradients
from amc.pruning.plan import plan_of
from amc.pruning.reconstruction import Reconstructor
from amc.pruning.slicing.precision import DOUBLE, SINGLE, TOLERANCES, cast_model, rounding
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify
from amc.registry import IMPORTANCES
from amc.tracing.inputs import example_of
from amc.tracing.units import Units


class Plain(nn.Module):
    """Convolutions and BatchNorm."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.b, self.head = nn.Conv2d(8, 12, 3), nn.Linear(12, 4)
        self.to(kind)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.norm(self.a(x)).relu()).relu().mean((2, 3)))


class Rotary(nn.Module):
    """Llama's attention: positions turn queries and keys by complex numbers."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        names = ("embed", "q", "k", "v", "out")
        sizes = ((3, 16), (16, 16), (16, 16), (16, 16), (16, 16))
        self.layers = nn.ModuleDict({n: nn.Linear(*s) for n, s in zip(names, sizes, strict=True)})
        self.up, self.down, self.head = nn.Linear(16, 24), nn.Linear(24, 16), nn.Linear(16, 2)
        self.to(kind)
        turns = torch.outer(torch.arange(6.0), 0.1 ** torch.arange(2.0)).to(kind)
        self.register_buffer("freqs_cis", torch.polar(torch.ones_like(turns), turns))

    def _turned(self, x: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * self.freqs_cis[:, None]).flatten(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers["embed"](x.flatten(2).mT)
        q, k, v = (self.layers[n](x).unflatten(-1, (-1, 4)) for n in "qkv")
        q, k = self._turned(q), self._turned(k)
        mixed = functional.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, v)))
        x = x + self.layers["out"](mixed.transpose(1, 2).flatten(2))
        return self.head(x + self.down(self.up(x).relu()))


class Spectral(nn.Module):
    """A layer of a Fourier neural operator, whose weight is complex."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.lift, self.skip = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1)
        self.grow, self.head = nn.Conv2d(6, 12, 1), nn.Conv2d(12, 1, 1)
        self.to(kind)
        complex_kind = {torch.float64: torch.complex128}.get(kind, torch.complex64)
        self.modes = nn.Parameter(torch.randn(6, 6, 2, 2, dtype=complex_kind))

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x)
        low = torch.einsum("bixy,ioxy->boxy", torch.fft.rfft2(x)[:, :, :2, :2], self.modes)
        x = torch.fft.irfft2(low, s=x.shape[-2:]) + self.skip(x)
        return self.head(self.grow(x.relu()).relu())


class Complex(nn.Module):
    """Complex layers through and through, and a gain for each channel."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.a = nn.Linear(3, 8, dtype=kind)
        self.gain = nn.Parameter(torch.randn(8, dtype=kind))
        self.b, self.c = nn.Linear(8, 10, dtype=kind), nn.Linear(10, 6, dtype=kind.to_real())
        self.head = nn.Linear(6, 2, dtype=kind.to_real())

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x.flatten(2).mT.to(self.a.weight.dtype)) * self.gain)
        return self.head(self.c(x.abs()).relu())


class Whole(nn.Module):
    """Whole numbers among the stored: a scale for each channel, an order of inputs, a mask."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(3, 8), nn.Linear(8, 12), nn.Linear(12, 2)
        self.to(kind)
        self.scale = nn.Parameter(torch.arange(8) + 1, requires_grad=False)
        self.register_buffer("order", torch.tensor([2, 0, 1]))
        self.register_buffer("on", torch.arange(8) % 3 > 0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x.flatten(2).mT[..., self.order]) * self.scale * self.on
        return self.head(self.b(x.relu()).relu())


class Mixed(nn.Module):
    """Each layer in its own kind of numbers, as in quantised language models."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.a, self.norm = nn.Linear(3, 8).to(kind), nn.LayerNorm(8)
        self.b, self.head = nn.Linear(8, 12).bfloat16(), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x.flatten(2).mT.to(self.a.weight.dtype)).float())
        return self.head(self.b(x.to(self.b.weight.dtype)).relu().float())


class Bound(nn.Module):
    """Code that names its precision, so that it runs in no other."""

    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.head = nn.Linear(3, 8), nn.Linear(8, 12), nn.Linear(12, 2)
        self.to(kind)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x.flatten(2).mT.to(self.kind)).relu().to(self.kind)
        return self.head(self.b(x).to(self.kind))


def plain(kind: str = "float16") -> nn.Module:
    """What a saved network's plan names."""
    return NETWORKS[kind][0](NETWORKS[kind][1])


NETWORKS = {
    "float64": (Plain, torch.float64, {"a", "b"}),
    "float16": (Plain, torch.float16, {"a", "b"}),
    "bfloat16": (Plain, torch.bfloat16, {"a", "b"}),
    "rotary": (Rotary, torch.float32, {"layers.embed", "layers.q", "up"}),
    "rotary in double": (Rotary, torch.float64, {"layers.embed", "layers.q", "up"}),
    "spectral": (Spectral, torch.float32, {"grow"}),
    "spectral in double": (Spectral, torch.float64, {"grow"}),
    "complex": (Complex, torch.complex64, {"a", "b", "c"}),
    "complex in double": (Complex, torch.complex128, {"a", "b", "c"}),
    "whole": (Whole, torch.float32, {"a", "b"}),
    "mixed": (Mixed, torch.float16, {"a", "b"}),
    "bound": (Bound, torch.float16, {"a", "b"}),
}


def network(name: str) -> tuple[nn.Module, Tensor, Units]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = plain(name).eval()
    side = (3, 2) if name.startswith("rotary") else (8, 8)
    x = example_of(model, (2, 3, *side))
    return model, x, find_units(model, x)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_pruned_counted_saved_and_rebuilt_in_its_own_numbers(name, tmp_path):
    model, x, units = network(name)
    assert {unit.name for unit in units} == NETWORKS[name][2]
    assert not any("fails" in frozen.reason for frozen in units.frozen)
    widths = [unit.width // 2 for unit in units]
    small = slice_model(model, units, widths)
    assert verify(model, small, units, widths, x) < 1e-5
    kinds = [tensor.dtype for tensor in (*model.parameters(), *model.buffers())]
    assert [tensor.dtype for tensor in (*small.parameters(), *small.buffers())] == kinds
    cost = CostTable(units)
    assert cost.params(widths) == sum(p.numel() for p in small.parameters())
    spec = ModelConfig(spec=f"{__file__}:plain", arguments={"kind": name})
    plan = plan_of(cost, widths, weights_sha256=weights_sha256(model), model=spec)
    save_model(small, plan, tmp_path / "small.safetensors")
    with torch.random.fork_rng():
        loaded, _ = load_model(tmp_path / "small.safetensors", allow_factory=True)
    with torch.inference_mode():
        assert torch.equal(loaded(x), small(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_criterion_mending_and_a_runtime_take_it(name):
    model, x, units = network(name)

    def loss(candidate: nn.Module):
        yield candidate(x).float().square().mean()

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as that imaginary parts were discarded
        for entry in IMPORTANCES:
            found = find_units(model, x, importance=entry.name, calibration=[x], loss=loss)
            assert all(np.isfinite(unit.scores).all() for unit in found)
        widths = [unit.width // 2 for unit in units]
        small = slice_model(model, units, widths)
        Reconstructor(model, units, [x])(small, widths)
        assert TorchEager().load(small, x)().shape == small(x).shape


def test_gradients_by_gates_on_complex_channels_are_those_of_finite_differences():
    model, x, units = network("complex in double")

    def loss(candidate: nn.Module):
        yield candidate(x).square().mean()

    ((_, gates),) = gate_gradients(Evidence(model, units), copy.deepcopy(model), loss)
    number = next(n for n, unit in enumerate(units) if unit.name == "a")
    for channel in range(3):
        values = []
        for step in (1e-6, -1e-6):
            twin = copy.deepcopy(model)
            twin.b.weight.data[:, channel] *= 1 + step
            values.append(next(loss(twin)).item())
        assert gates[number][channel] == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6)


def test_a_mistake_is_found_where_code_is_bound_to_half_precision():
    model, x, units = network("bound")
    widths = [unit.width // 2 for unit in units]
    small = slice_model(model, units, widths)
    small.b.weight.data[0] *= -1
    with pytest.raises(VerificationError, match="differs from"):
        verify(model, small, units, widths, x)


def test_a_tolerance_is_that_of_the_coarsest_numbers():
    one = {kind: torch.ones(1, dtype=kind) for kind in (*TOLERANCES, torch.complex128, torch.int64)}
    assert [f"{TOLERANCES[kind]:.1e}" for kind in TOLERANCES] == [
        "2.3e-13",
        "1.2e-04",
        "1.6e-02",
        "1.2e-01",
    ]
    assert rounding([one[torch.float32], one[torch.float16]]) == TOLERANCES[torch.float16]
    assert rounding([one[torch.complex128], one[torch.int64]]) == TOLERANCES[torch.float64]
    assert rounding([one[torch.int64]]) == TOLERANCES[torch.float32]


def test_casts_leave_complex_numbers_complex_and_the_original_alone():
    model, _, _ = network("rotary")
    twin = cast_model(model, DOUBLE)
    assert twin.freqs_cis.dtype is torch.complex128
    assert twin.up.weight.dtype is torch.float64
    assert torch.equal(twin.freqs_cis, model.freqs_cis.to(torch.complex128))
    assert model.up.weight.dtype is torch.float32
    assert cast_model(model, SINGLE) is model


def test_numbers_that_safetensors_lacks_are_stored_as_pairs():
    value = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex128)
    stored = checkpoint._storable(value)
    assert stored.tolist() == [[1, 2], [3, -4]]
    assert torch.equal(checkpoint._restored(stored, value), value)
    assert checkpoint._storable(value.to(torch.complex64)).dtype is torch.complex64
