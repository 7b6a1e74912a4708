"""What amc inspect tells: shares and bounds by hand, tables that fit, JSON that is complete."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn
from torch.nn import Conv2d, Linear

from amc.pruning.find_units import find_units, read_units
from amc.reporting.inspection import describe, print_inspection
from amc.tracing.units import Frozen, Units


def shown(description: dict[str, Any], columns: int = 120, **options: bool) -> str:
    text = StringIO()
    console = Console(file=text, width=columns, color_system=None)
    print_inspection(console, description, **options)
    return text.getvalue()


def test_shares_and_least_costs_by_hand():
    # 3 -> 4 -> 6 channels on 10 positions, then 6 -> 2 once; the last layer is left alone.
    model = nn.Sequential(
        nn.Conv1d(3, 4, 1, bias=False),
        nn.BatchNorm1d(4),
        nn.Conv1d(4, 6, 1),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        Linear(6, 2),
    )
    description = describe("net", read_units(model, torch.ones(1, 3, 10)).limited(min_keep=0.5))
    macs, params = 120 + 240 + 12, 12 + 8 + 30 + 14
    assert (description["macs"], description["params"]) == (macs, params)
    first, second = description["units"]
    assert first["macs_share"] == pytest.approx((60 + 120) / macs)
    assert second["macs_share"] == pytest.approx((120 + 6) / macs)
    assert first["params_share"] == pytest.approx((6 + 8 + 12) / params)
    assert second["params_share"] == pytest.approx((12 + 6 + 6) / params)
    assert description["prunable_macs_share"] == 1.0
    assert description["prunable_params_share"] == (params - 2) / params
    assert description["least"] == {
        "macs": 3 * 2 * 10 + 2 * 3 * 10 + 3 * 2,
        "params": 6 + 4 + 9 + 8,
    }
    assert (first["least_width"], first["suggested_least_width"], first["roles"]) == (
        2,
        2,
        ["stem"],
    )


@pytest.fixture(scope="module")
def transformer() -> Units:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(24, 4, 32, batch_first=True)
    model = nn.Sequential(
        Linear(5, 24), nn.TransformerEncoder(layer, 12, enable_nested_tensor=False), Linear(24, 3)
    )
    return find_units(model, torch.randn(1, 7, 5))


def test_similar_units_share_a_line_and_their_shares_add_up(transformer):
    description = describe("net", transformer.limited(round_to={"linear": 8}))
    lines = shown(description).splitlines()
    assert lines[0] == "net: 25 prunable units"
    heads = " ".join(next(line for line in lines if "self_attn " in line).split())
    assert heads.startswith("1.layers.{0..11}.self_attn ×12 heads attention 1..4 × 18 ")
    hidden = [unit for unit in description["units"] if unit["name"].endswith("linear1")]
    share = 100 * sum(unit["macs_share"] for unit in hidden)
    folded = next(line for line in lines if "linear1" in line)
    assert folded.split() == [
        *("1.layers.{0..11}.linear1", "×12", "linear", "MLP", "hidden", "8..32", "by", "8"),
        f"{share:.1f}%",
        f"{100 * sum(unit['params_share'] for unit in hidden):.1f}%",
    ]
    assert "0     0, 1.layers.{0..11}.self_attn.out_proj, 1.layers.{0..11}.linear2" in lines
    assert any(
        line.startswith("suggested  keep at least 12 of 0 (stem, last): -") for line in lines
    )
    everything = shown(description, folded=False)
    assert all(f"1.layers.{n}.linear1 " in everything for n in range(12))
    assert "×12" not in everything


@pytest.mark.parametrize("columns", [80, 120])
def test_tables_fit_the_terminal(transformer, columns):
    lines = shown(describe("net", transformer), columns).splitlines()
    assert max(map(len, lines)) <= columns
    assert "…" not in "".join(lines)  # nothing is cut off
    assert len(lines) < 30


def test_json_is_complete(transformer):
    description = json.loads(json.dumps(describe("net", transformer.limited(exclude=["*.1.*1"]))))
    names = [unit["name"] for unit in description["units"]]
    parts = ("self_attn", "linear1")
    assert names == ["0", "1.layers.0.self_attn", "1.layers.0.linear1", "1.layers.1.self_attn"] + [
        f"1.layers.{n}.{part}" for n in range(2, 12) for part in parts
    ]
    assert len(description["units"][0]["members"]) == 25
    assert {f["name"]: f["reason"] for f in description["frozen"]} == {
        "2": "network output",
        "1.layers.1.linear1": "excluded by '*.1.*1'",
    }


def test_reasons_that_differ_in_numbers_only_share_a_line():
    units = read_units(nn.Sequential(Conv2d(3, 4, 1), Conv2d(4, 2, 1)), torch.ones(1, 3, 2, 2))
    frozen = [
        *(Frozen(f"b.{n}.conv", 8, f"sort at net.py:{10 + n}") for n in range(4)),
        *(Frozen(name, 1, "sort at net.py:10") for name in ("x", "y", "z")),
        Frozen("other", 5, "topk at net.py:10"),
    ]
    description = describe("net", replace(units, frozen=tuple(frozen)))
    lines = [" ".join(line.split()) for line in shown(description).splitlines()]
    assert "b.{0..3}.conv, x, y, 1 more ×7 35 sort at net.py:…" in lines
    assert "other 5 topk at net.py:10" in lines
    assert len(description["frozen"]) == 8


def test_names_are_not_taken_for_markup():
    units = read_units(nn.Sequential(Conv2d(3, 4, 1), Conv2d(4, 2, 1)), torch.ones(1, 3, 2, 2))
    description = describe("[red]net.py:make", units)
    description["frozen"][0]["reason"] = "at [bold]x"
    assert "[red]net.py:make: 1 " in shown(description)
    assert "at [bold]x" in shown(description)


def test_what_is_not_counted_is_said():
    class Spectrum(nn.Module):
        def forward(self, x):
            return torch.fft.fft(x).abs()

    units = read_units(nn.Sequential(Conv2d(3, 4, 1), Spectrum()), torch.ones(1, 3, 2, 2))
    line = Spectrum.forward.__code__.co_firstlineno + 1
    note = f"_fft_r2c at test_inspection.py:{line} in 1: its arithmetic is not counted"
    description = describe("net", units)
    assert description["notes"] == [note]
    assert f"note      {note}" in shown(description).splitlines()
