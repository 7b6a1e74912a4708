"""The numeric mode by name."""

from __future__ import annotations

import pytest
import torch

from amc.compute.precision import autocast_for, has_fast_bf16
from amc.errors import ConfigError


def test_precision_by_name():
    for name, half in (("fp32", False), ("bf16", True), ("auto", has_fast_bf16("cpu"))):
        with autocast_for("cpu", name):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.bfloat16 if half else torch.float32)


def test_fp16_needs_cuda():
    with pytest.raises(ConfigError, match="fp16 needs a CUDA device, not cpu: set precision"):
        autocast_for("cpu", "fp16")
