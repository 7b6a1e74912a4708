"""What operations cost that no rule follows: hand counts, and PyTorch's counter as the floor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from amc.tracing.trace import trace


class Runs(nn.Module):
    """A function as a network, with a (3, 4) table of its own."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(3, 4))
        self.function = function
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def macs_of(model: nn.Module, shape: tuple[int, ...]) -> int:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = trace(model, x)
    assert found.uncounted == ()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model.eval()(x)
    macs = sum(layer.macs for layer in found.layers)
    assert macs * 2 >= counter.get_total_flops()
    return macs


F = functional
COUNTS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "mv": (Runs(lambda s, x: torch.mv(x, s.table[0])), (5, 4), 20),
    "mv of a table": (Runs(lambda s, x: torch.mv(s.table, x)), (4,), 12),
    "dot": (Runs(lambda s, x: torch.dot(x, s.table[0])), (4,), 4),
    "vdot": (Runs(lambda s, x: torch.vdot(x, s.table[0])), (4,), 4),
    "addmv": (Runs(lambda s, x: torch.addmv(x[:, 0], x, s.table[0])), (5, 4), 20),
    "addr": (Runs(lambda s, x: torch.addr(s.table, s.table[:, 0], x)), (4,), 12),
    "outer": (Runs(lambda s, x: torch.outer(s.table[:, 0], x)), (4,), 12),
    "ger": (Runs(lambda s, x: torch.ger(x, s.table[0])), (3,), 12),
    "matmul with a vector": (Runs(lambda s, x: x @ s.table[0]), (2, 5, 4), 40),
    "a vector's matmul": (Runs(lambda s, x: s.table[:, 0] @ x), (2, 3, 6), 36),
    "two vectors' matmul": (Runs(lambda s, x: x @ s.table[0]), (4,), 4),
    "inner": (Runs(lambda s, x: torch.inner(x, s.table)), (5, 4), 60),
    "bmm": (Runs(lambda _, x: torch.bmm(x, x.mT)), (2, 5, 4), 200),
    "addbmm": (Runs(lambda _, x: torch.addbmm(x[0] @ x[0].mT, x, x.mT)), (2, 5, 4), 200 + 100),
    "einsum": (Runs(lambda s, x: torch.einsum("nti,oi->nto", x, s.table)), (2, 5, 4), 120),
    "tensordot": (Runs(lambda s, x: torch.tensordot(x, s.table, ([1], [1]))), (5, 4), 60),
    "multi_dot": (
        Runs(lambda s, x: torch.linalg.multi_dot([x, s.table.T, s.table])),
        (5, 4),
        60 + 60,
    ),
    "bilinear": (
        Runs(lambda s, x: s.two(x, x), two=nn.Bilinear(4, 4, 7)),
        (5, 4),
        5 * 7 * 4 * 4 + 5 * 7 * 4,
    ),
    "bilinear, other sizes": (
        Runs(lambda _, x: F.bilinear(x, x[:, :3], torch.ones(7, 4, 3))),
        (5, 4),
        5 * 7 * 4 * 3 + 5 * 7 * 3,
    ),
    "bilinear einsum": (
        Runs(lambda _, x: torch.einsum("ni,oij,nj->no", x, torch.ones(7, 4, 3), x[:, :3])),
        (5, 4),
        5 * 7 * 4 * 3 + 5 * 7 * 3,
    ),
    "cdist": (Runs(lambda s, x: torch.cdist(x, s.table)), (2, 5, 4), 2 * 5 * 3 * 4),
    "large cdist": (Runs(lambda _, x: torch.cdist(x, x)), (2, 30, 4), 2 * 30 * 30 * 4),
    "convolution by name of its padding": (
        nn.Conv2d(3, 5, 3, padding="same"),
        (2, 3, 6, 6),
        2 * 5 * 27 * 36,
    ),
    "conv_tbc": (
        Runs(lambda _, x: torch.conv_tbc(x, torch.ones(3, 4, 6), torch.zeros(6), 1)),
        (7, 2, 4),
        7 * 2 * 6 * 4 * 3,
    ),
    "dynamic filter": (
        Runs(lambda _, x: F.conv2d(x, x[:, :, :3, :3].transpose(0, 1), groups=1)),
        (2, 2, 6, 6),
        2 * 2 * 2 * 9 * 16,
    ),
    "gru_cell": (nn.GRUCell(4, 6), (5, 4), 5 * 18 * (4 + 6)),
    "lstm_cell": (
        Runs(lambda s, x: s.cell(x)[0], cell=nn.LSTMCell(4, 6)),
        (5, 4),
        5 * 24 * (4 + 6),
    ),
    "lstm": (
        Runs(lambda s, x: s.lstm(x)[0], lstm=nn.LSTM(4, 6, 2, bidirectional=True)),
        (3, 2, 4),
        6 * 2 * 24 * ((4 + 6) + (12 + 6)),
    ),
    "grouped keys": (
        Runs(lambda _, x: F.scaled_dot_product_attention(x, x[:, :2], x[:, :2], enable_gqa=True)),
        (3, 4, 7, 5),
        3 * 4 * 7 * 7 * 5 * 2,
    ),
    "sampling": (
        Runs(lambda _, x: F.grid_sample(x, torch.zeros(2, 4, 4, 2), align_corners=False)),
        (2, 3, 5, 5),
        0,
    ),
    "resizing": (
        Runs(lambda _, x: F.interpolate(x, size=7, mode="bicubic", antialias=True)),
        (2, 3, 5, 5),
        0,
    ),
    "sorting": (Runs(lambda _, x: x.sort(1)[0].cumsum(1).topk(2)[0]), (5, 4), 0),
}


@pytest.mark.parametrize(("model", "shape", "macs"), COUNTS.values(), ids=COUNTS)
def test_counts_by_hand(model, shape, macs):
    assert macs_of(model, shape) == macs


@torch.library.custom_op("amc_tests::scaled", mutates_args=())
def scaled(x: Tensor) -> Tensor:
    return x * 2


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda _, x: scaled(x), "amc_tests.scaled"),
        (lambda _, x: torch.linalg.inv(x), "linalg_inv_ex"),
        (lambda _, x: torch.fft.fft(x).abs(), "_fft_r2c"),
    ],
)
def test_an_unknown_operation_is_reported_once_with_its_place(function, operation):
    inner = Runs(lambda s, x: function(s, function(s, x)))
    found = trace(nn.Sequential(nn.Linear(4, 4), inner), torch.eye(4))
    (place,) = found.uncounted
    assert place == f"{operation} at test_counting.py:{function.__code__.co_firstlineno} in 1"


def test_what_is_computed_from_weights_alone_is_counted_as_by_pytorch():
    layer = nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))
    assert macs_of(layer, (2, 6)) == 2 * 24
    low_rank = Runs(lambda s, x: x @ (s.table.T @ s.table))
    assert macs_of(low_rank, (2, 4)) == 2 * 16 + 4 * 3 * 4
