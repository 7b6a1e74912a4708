"""Widths that tell the sizes of a network apart: counted on the sliced tensors themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor, nn

from amc.pruning.find_units import read_units
from amc.pruning.slicing.proof_widths import mirrored, proof_widths
from amc.pruning.slicing.slice import slice_model
from amc.tracing.units import Units


class Branches(nn.Module):
    """Two branches whose channels are joined, beside layers as wide as both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, width, 1), nn.Conv2d(3, width, 1)
        self.c = nn.Conv2d(2 * width, 2 * width, 1)
        self.d = nn.Conv2d(2 * width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.d(self.c(torch.cat([self.a(x), self.b(x)], 1)))
        return out


def chain(widths: Sequence[int]) -> nn.Module:
    sizes = [3, *widths, 4]
    return nn.Sequential(*[nn.Conv2d(i, o, 1) for i, o in pairwise(sizes)])


def attentions(layers: int) -> nn.Module:
    """So many attentions of three heads, and hidden layers of 8."""
    layer = nn.TransformerEncoderLayer(12, 3, 8, batch_first=True)
    return nn.Sequential(
        nn.TransformerEncoder(layer, layers, enable_nested_tensor=False), nn.Linear(12, 2)
    )


NETWORKS = {
    "all different": (lambda: chain([16, 24, 40]), 1),
    "equal": (lambda: chain([16] * 8), 1),
    "more than sizes": (lambda: chain([6] * 12), 2),
    "pairs": (lambda: chain([2, 2, 2]), 4),
    "triples": (lambda: chain([3] * 5), 4),
    "joined": (lambda: Branches(4), 1),
    "heads": (lambda: attentions(4), 2),
}
"""Each with the most proofs that it may take."""


def traced(name: str) -> tuple[nn.Module, Units]:
    model = NETWORKS[name][0]().eval()
    x = torch.ones(1, 5, 12) if name == "heads" else torch.ones(1, 3, 2, 2)
    return model, read_units(model, x)


def kept_sizes(model: nn.Module, units: Units, widths: Sequence[int]) -> dict[tuple[str, int], int]:
    small = slice_model(model, units, widths)
    return {(n, d): size for n, x in small.named_parameters() for d, size in enumerate(x.shape)}


def untold(model: nn.Module, units: Units, proofs: Iterable[Sequence[int]]) -> set[frozenset[str]]:
    """Pairs of dimensions of parameters, equal when dense and moved by different units, that no
    proof tells apart: by sizes above 1 that differ, or each being the smaller one once."""
    dense = kept_sizes(model, units, units.dense_widths)
    forms = {place: form[:-1] for place, form in units.forms.items() if place in dense}
    pairs = [
        (a, b) for a, b in combinations(forms, 2) if dense[a] == dense[b] and forms[a] != forms[b]
    ]
    seen = [kept_sizes(model, units, widths) for widths in proofs]
    left = set()
    for a, b in pairs:
        sizes = [(kept[a], kept[b]) for kept in seen]
        clear = any(x != y and min(x, y) > 1 for x, y in sizes)
        both = any(x < y for x, y in sizes) and any(x > y for x, y in sizes)
        if not (clear or both):
            left.add(frozenset((f"{a}", f"{b}")))
    return left


@pytest.mark.parametrize("name", NETWORKS)
def test_every_pair_of_equal_sizes_is_told_apart(name):
    model, units = traced(name)
    proofs = proof_widths(units)
    assert untold(model, units, proofs) == set()
    assert len(proofs) <= NETWORKS[name][1]
    assert all(width < unit.width for width, unit in zip(proofs[0], units, strict=True))
    assert all(1 <= w <= u.width for widths in proofs for w, u in zip(widths, units, strict=True))
    assert proof_widths(units) == proofs
    if len(proofs) > 1:  # none of them is for nothing
        assert untold(model, units, proofs[:-1])


@pytest.mark.parametrize("name", ["equal", "more than sizes", "pairs", "triples"])
def test_a_mirrored_proof_turns_the_order_of_equal_sizes_around(name):
    _, units = traced(name)
    for widths in proof_widths(units):
        turned = mirrored(units, widths)
        assert all(1 <= w <= u.width for w, u in zip(turned, units, strict=True))
        for (a, b), (x, y) in zip(combinations(widths, 2), combinations(turned, 2), strict=True):
            assert (a < b) == (x > y)


def test_sizes_keep_out_of_whole_ratios_where_that_costs_nothing():
    model = chain([8, 16, 24, 32])
    units = read_units(model, torch.ones(1, 3, 2, 2))
    (widths,) = proof_widths(units)
    fractions = [w / u.width for w, u in zip(widths, units, strict=True)]
    assert len(set(fractions)) == len(fractions)
