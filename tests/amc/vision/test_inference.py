"""Numeric mode, and accuracy against a count by hand."""

import pytest
import torch
from torch import nn

from amc.compute.precision import autocast, has_fast_bf16, to_channels_last
from amc.vision.data import ImageData, Split
from amc.vision.inference import accuracy


def test_autocast_follows_the_hardware_unless_told() -> None:
    for bf16, expected in ((True, True), (False, False), (None, has_fast_bf16("cpu"))):
        with autocast("cpu", bf16):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert (product.dtype is torch.bfloat16) == expected


def test_the_layout_changes_and_the_values_do_not() -> None:
    images = torch.arange(24.0).view(1, 2, 3, 4)
    laid_out = to_channels_last(images)
    assert torch.equal(laid_out, images)
    assert laid_out.is_contiguous(memory_format=torch.channels_last)
    tokens = torch.arange(4)
    assert to_channels_last(tokens) is tokens


def test_accuracy_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (25, 1, 8, 8), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.arange(25) % 10)
    data = ImageData(
        name="noise",
        classes=tuple("0123456789"),
        train=split,
        search_val=split,
        test=split,
        mean=(0.5,),
        std=(0.5,),
        crop_padding=0,
        flip=False,
    )
    layer = nn.Linear(64, 10)
    nn.init.normal_(layer.weight, generator=generator)
    model = nn.Sequential(nn.Flatten(), layer).train()
    with torch.no_grad():
        logits = model((images.float() / 255 - 0.5) / 0.5)
    expected = (logits.argmax(1) == split.labels).float().mean().item()
    assert accuracy(model, data, split, batch_size=4, bf16=False) == pytest.approx(expected)
    assert not model.training
