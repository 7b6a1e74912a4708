"""Latency: the order of two networks whose sizes differ a hundredfold is not noise."""

import torch
from torch import nn

from amc.latency import measure


def test_a_hundredfold_network_is_slower_and_modes_stay():
    small, large = nn.Linear(64, 64), nn.Sequential(*[nn.Linear(1024, 1024) for _ in range(8)])
    large[0].eval()
    wide = nn.Sequential(nn.Linear(64, 1024), large)
    fast, slow = measure([small, wide], torch.randn(8, 64), repeats=15)
    assert slow.median_ms > 3 * fast.median_ms > 0
    assert fast.spread_ms >= 0
    assert small.training
    assert not large[0].training


def test_models_take_turns():
    calls = []

    class Named(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            calls.append(self.name)
            return x

    measure([Named("a"), Named("b")], torch.zeros(1), repeats=3, warmup=1)
    assert calls == ["a", "b"] * 4
