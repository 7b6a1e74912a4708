"""What a network recognises of a split."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
    """Fraction of ``split`` that ``model`` classifies correctly; see :func:`recognised`."""
    found = recognised(model, data, split, batch_size=batch_size, bf16=bf16, device=device)
    return int(found.sum()) / len(found)


def recognised(
    model: nn.Module,
    data: ImageData,
    split: Images,
    *,
    batch_size: int = 125,
    bf16: bool | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Which images of ``split`` the model classifies correctly, with the statistics that it has.

    A boolean for each image, (N,); unreadable ones are not among them. Normalises batch by batch,
    so that a large split needs no float copy. Leaves the model in eval mode, on ``device``.
    """
    model.to(device).eval()
    found = []
    contiguous: tuple[str, ...] | None = None
    for batch in split.batches(torch.arange(len(split)).split(batch_size)):
        if not len(batch):
            continue
        images = to_channels_last(data.normalise(batch.images.to(device)))
        if contiguous is None:
            contiguous = unsound_layers(model, images, backward=False, bf16=bf16)
        with contiguous_layers(model, contiguous), torch.inference_mode(), autocast(device, bf16):
            found.append(model(images).argmax(1).cpu() == batch.labels)
    return torch.cat(found)
