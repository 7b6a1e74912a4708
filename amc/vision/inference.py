"""The accuracy of a network on a split."""

from __future__ import annotations

import torch
from torch import nn

from amc.compute.layout import contiguous_layers, unsound_layers
from amc.compute.precision import autocast, to_channels_last
from amc.vision.data import ImageData, Images


def accuracy(
    model: nn.Module,
    data: ImageData,
    split: Images,
    *,
    batch_size: int = 125,
    bf16: bool | None = None,
    device: torch.device | str = "cpu",
) -> float:
    """Fraction of ``split`` that ``model`` classifies correctly, with the statistics that it has.

    Normalises batch by batch, so that a large split needs no float copy. Leaves the model in eval
    mode, on ``device``.
    """
    model.to(device).eval()
    correct, seen = 0, 0  # of a split on disk, unreadable images are not seen
    contiguous: tuple[str, ...] | None = None
    for batch in split.batches(torch.arange(len(split)).split(batch_size)):
        images = to_channels_last(data.normalise(batch.images.to(device)))
        if contiguous is None:
            contiguous = unsound_layers(model, images, backward=False, bf16=bf16)
        with contiguous_layers(model, contiguous), torch.inference_mode(), autocast(device, bf16):
            correct += int((model(images).argmax(1).cpu() == batch.labels).sum())
            seen += len(batch)
    return correct / seen
