"""Sizes that are secretly one are found, and no plan of what is left fails."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amc.errors import UnitError, VerificationError
from amc.pruning.find_units import find_units, read_units
from amc.pruning.slicing.slice import slice_model
from amc.pruning.slicing.verification import verify


def hidden(*shape: int) -> Tensor:
    """Zeros in a shape that the trace cannot follow: through text, and another library."""
    return torch.from_numpy(np.zeros([int(str(size)) for size in shape], dtype=np.float32))


class Three(nn.Module):
    """Three convolutions as wide as each other, and an output."""

    width = 5

    def __init__(self) -> None:
        super().__init__()
        c = self.width
        self.a, self.b = nn.Conv2d(3, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)
        self.d, self.o = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, 4, 1)


class Accumulated(Three):
    """Sums that begin as zeros of another's shape."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        total = hidden(*h.shape)
        for layer in (self.b, self.d):
            total = total + layer(h)
        out: Tensor = self.o(total)
        return out


class AccumulatedPair(Accumulated):
    """With two channels, one of which is broadcast once it is alone."""

    width = 2


class Truncated(Three):
    """The first channels, as many as another layer has: wrong only if there are more of them."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        out: Tensor = self.o(self.d(self.b(h).relu())[:, : int(str(h.shape[1]))])
        return out


class Halves(Three):
    """Half of the channels are doubled, by another layer's count."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        half, g = int(str(h.shape[1])) // 2, self.b(h).relu()
        out: Tensor = self.o(self.d(torch.cat([g[:, :half], 2 * g[:, half:]], 1)))
        return out


class Squeezed(Three):
    """A gate that loses its dimension of channels where there is only one."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        gate = h.mean((2, 3)).squeeze()
        out: Tensor = self.o(self.d(self.b(h * gate[:, :, None, None])))
        return out


@pytest.mark.parametrize(
    ("kind", "free"),
    [
        (Accumulated, {}),
        (AccumulatedPair, {"a": 1}),
        (Truncated, {"b": 1, "d": 1}),
        (Halves, {"d": 1}),
        (Squeezed, {"a": 2, "b": 1, "d": 1}),
    ],
)
def test_no_plan_fails_where_sizes_are_secretly_tied(kind, free):
    """``free``: the units that are left, and their least widths; worked out by hand."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = kind().eval()
    x, other = torch.randn(2, 2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    if not free:
        with pytest.raises(UnitError, match="must match the size of tensor"):
            find_units(model, x)
        return
    units = find_units(model, x)
    assert {unit.name: unit.widths[0] for unit in units} == free
    reasons = [x.reason for x in units.frozen if x.reason != "network output"]
    assert all("the sliced network fails" in r or "differs from" in r for r in reasons)
    for widths in product(*[unit.widths for unit in units]):
        assert verify(model, slice_model(model, units, widths), units, widths, other) < 1e-5


def test_bounds_know_what_is_proven():
    """A unit that fails alone cannot be bounded below that, and the reason is said."""
    model, x = Squeezed().eval(), torch.ones(2, 3, 4, 4)
    assert [unit.widths[0] for unit in find_units(model, x, min_width=1)] == [2, 1, 1]
    assert [unit.widths[0] for unit in find_units(model, x, min_width=3)] == [3, 3, 3]
    with pytest.raises(UnitError, match=r"at least 5 \(min_width=5\)"):
        find_units(model, x, min_width=5)


def test_a_layer_that_no_signal_reaches_is_refused_by_name():
    class Closed(Three):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.o(self.d((0 * self.b(self.a(x))).relu()))
            return out

    model, x = Closed().eval(), torch.randn(1, 3, 5, 5)
    units = find_units(model, x)
    assert [unit.name for unit in units] == ["a"]
    reasons = {f.name: f.reason for f in units.frozen if f.reason != "network output"}
    assert reasons.keys() == {"b", "d"}  # what d reads, and what it makes
    assert all(r.startswith("no signal reaches d, so that nothing") for r in reasons.values())
    traced, widths = read_units(model, x), [3, 3, 3]
    with pytest.raises(VerificationError, match="no signal reaches d"):
        verify(model, slice_model(model, traced, widths), traced, widths, x)
