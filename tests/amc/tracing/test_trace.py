"""What one traced forward counts, keeps as it was, and reports when it fails."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from amc.errors import ModelError
from amc.tracing.rules import RULES
from amc.tracing.trace import eval_mode, trace, unfused_attention


def counted(model: nn.Module, *inputs: Tensor) -> int:
    """PyTorch's own count, with attention in parts as in the trace."""
    counter = FlopCounterMode(display=False)
    with unfused_attention(), counter, torch.no_grad(), eval_mode(model):
        model(*inputs)
    return counter.get_total_flops() // 2


class Products(nn.Module):
    """Products of activations, and layers whose weights are computed in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.bilinear = nn.Linear(8, 8)
        self.table = nn.Parameter(torch.ones(8, 6))

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attention(x, x, x, need_weights=False)
        y = self.encoder(x + y)
        y = y @ self.bilinear(x).transpose(1, 2) @ y
        y = functional.linear(y, self.bilinear.weight * 2)
        return y @ self.table


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Products(), (2, 5, 8)),
        (nn.Conv1d(4, 6, 3, stride=2, groups=2), (3, 4, 11)),
        (nn.Conv3d(2, 4, (1, 2, 3), dilation=2), (1, 2, 5, 6, 7)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, output_padding=1), (2, 4, 5, 5)),
        (nn.ConvTranspose2d(4, 4, 3, groups=4), (2, 4, 5, 5)),
        (nn.Conv2d(3, 6, 3, groups=3), (2, 3, 8, 8)),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), (2, 3, 8, 8)),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4)), (2, 5, 6)),
        (nn.Linear(6, 4), (2, 3, 5, 6)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_macs_are_those_of_pytorchs_counter(model, shape):
    x = torch.ones(shape)
    assert sum(layer.macs for layer in trace(model, x).layers) == counted(model, x) > 0


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "mobilenet_v3_small", "googlenet"])
def test_macs_of_whole_networks_are_those_of_pytorchs_counter(subject, name):
    s = subject(name)
    assert sum(layer.macs for layer in s.units.layers) == counted(s.model, s.inputs)
    assert {layer.kind for layer in s.units.layers} <= {"conv", "depthwise", "linear"}


def test_layers_are_described_in_forward_order():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.Conv2d(8, 16, (1, 5), groups=8),
        nn.Flatten(),
        nn.Linear(16 * 7 * 3, 5),
    )
    layers = trace(model, torch.ones(2, 3, 15, 15)).layers
    described = [
        (x.name, x.kind, x.in_channels, x.out_channels, x.kernel, x.stride, x.height, x.width)
        for x in layers
    ]
    assert described == [
        ("0", "conv", 3, 8, 3, 2, 7, 7),
        ("1", "depthwise", 8, 16, 2, 1, 7, 3),
        ("3", "linear", 336, 5, 1, 1, 1, 1),
    ]
    assert [x.macs for x in layers] == [2 * 8 * 49 * 27, 2 * 16 * 21 * 5, 2 * 336 * 5]


def test_products_are_counted_under_the_line_that_calls_them():
    model = Products()
    layers = trace(model, torch.ones(2, 5, 8)).layers
    line = Products.forward.__code__.co_firstlineno
    assert [(x.name.partition(" (")[0], x.kind) for x in layers[-4:]] == [
        (f"matmul at test_trace.py:{line + 3}", "product"),
        (f"matmul at test_trace.py:{line + 3}", "product"),
        ("bilinear", "linear"),
        ("table", "linear"),
    ]
    assert [x.macs for x in layers[-4:]] == [2 * 5 * 5 * 8, 2 * 5 * 5 * 8, 2 * 5 * 64, 2 * 5 * 48]


class Fails(nn.Module):
    """Raises in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Dropout(), nn.ReLU())

    def forward(self, *x: Tensor) -> Tensor:
        raise RuntimeError(f"no luck with {len(x)}")


def test_a_failing_forward_is_reported_and_leaves_flags_alone():
    model = Fails()
    model.inner[0].eval()
    with pytest.raises(ModelError, match=r"shapes \[\(2, 3\), \(1,\)\]: no luck with 2"):
        trace(model, (torch.ones(2, 3), torch.ones(1)))
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert torch.backends.mha.get_fastpath_enabled()


def test_evaluation_mode_is_left_flag_by_flag():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.ReLU(), nn.Dropout()))
    model[1].eval()
    model[1][1].train()
    with eval_mode(model):
        assert not any(m.training for m in model.modules())
    assert [m.training for m in model.modules()] == [True, True, False, False, True]


def test_a_rule_that_fails_freezes_instead_of_blaming_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> None:
        raise IndexError

    monkeypatch.setitem(RULES, "aten.flatten", fails)
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    reasons = set(trace(model, torch.randn(1, 1, 1, 1)).frozen.values())
    assert any(reason.startswith("flatten at ") for reason in reasons)
