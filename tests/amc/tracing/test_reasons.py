"""Why channels are left alone: the true cause, at the network's own line and module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Conv2d, Linear

from amc.pruning.find_units import read_units
from amc.pruning.slicing.slice import slice_model
from amc.tracing.trace import trace


class Runs(nn.Module):
    """A function of two layers as a network."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def sorts(s: Any, x: Tensor) -> Tensor:
    return s.b(s.a(x).sort(-1)[0])


def mixes(s: Any, x: Tensor) -> Tensor:
    return s.b(s.a(x).softmax(-1))


def takes_some(s: Any, x: Tensor) -> Tensor:
    return s.b(s.a(x)[:, [0, 1, 2, 0]])


def line(function: Callable[..., Any]) -> str:
    return f"test_reasons.py:{function.__code__.co_firstlineno + 1}"


def pair(function: Callable[[Any, Tensor], Tensor], width: int = 8) -> nn.Module:
    return Runs(function, a=Linear(4, 8), b=Linear(width, 2))


def projected() -> nn.Module:
    layer = nn.LSTM(4, 8, batch_first=True, proj_size=6)
    layer.register_forward_hook(lambda *args: args[2][0])
    return nn.Sequential(layer, Linear(6, 2))


@pytest.mark.filterwarnings("ignore::UserWarning")  # of oneDNN, which knows no projections
@pytest.mark.parametrize(
    ("make", "shape", "name", "reason"),
    [
        (lambda: pair(sorts), (3, 4), "a", f"sort at {line(sorts)}"),
        (lambda: nn.Sequential(pair(sorts)), (3, 4), "0.a", f"sort at {line(sorts)} in 0"),
        (
            lambda: nn.Sequential(pair(mixes)),
            (3, 4),
            "0.a",
            f"its channels are mixed by softmax at {line(mixes)} in 0",
        ),
        (
            projected,
            (2, 5, 4),
            "0.ih_l0",
            "an LSTM has to have more units than it projects them to",
        ),
        (
            lambda: nn.Sequential(Linear(4, 8), nn.MaxPool1d(2), Linear(4, 2)),
            (2, 3, 4),
            "0",
            "its channels are mixed by max_pool1d at 1",
        ),
        (
            lambda: nn.Sequential(Conv2d(3, 8, 1), nn.LocalResponseNorm(2), Conv2d(8, 2, 1)),
            (2, 3, 4, 4),
            "0",
            "its channels are mixed by avg_pool3d at 1",
        ),
        (
            lambda: nn.Sequential(Conv2d(3, 8, 1), nn.ZeroPad3d((0, 0, 0, 0, 1, 1))),
            (2, 3, 4, 4),
            "0",
            "network output",
        ),
    ],
)
def test_a_reason_names_the_operation_the_line_and_the_module(make, shape, name, reason):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    frozen = {f.name: f.reason for f in read_units(make(), x).frozen}
    assert frozen[name] == reason


def test_a_channel_that_is_used_twice_has_no_equals():
    frozen = read_units(pair(takes_some, 4), torch.randn(3, 4)).frozen
    reasons = {f.reason: f.channels for f in frozen if f.name == "a"}
    assert reasons["no other channel of its layer is used in the same way"] == 1
    assert reasons["no layer reads it"] == 5


def test_no_reason_names_a_file_of_ours():
    """A sliced attention module runs our own code; a network of PyTorch's modules none at all."""
    layer = nn.TransformerEncoderLayer(8, 4, 16, batch_first=True)
    model = nn.Sequential(Linear(4, 8), nn.TransformerEncoder(layer, 1), Linear(8, 2))
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    units = read_units(model, x)
    small = slice_model(model, units, [max(1, unit.width // 2) for unit in units])
    found = trace(small, x)
    said = [*found.frozen.values(), *found.ties.values(), *(layer.name for layer in found.layers)]
    assert any("1.layers.0.self_attn" in text for text in said)
    assert not any(".py" in text for text in said)
