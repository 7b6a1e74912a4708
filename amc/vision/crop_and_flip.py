"""Random crops and mirrors of a batch at once: uint8 to uint8, on the images' device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def random_crop(
    images: Tensor, padding: int, generator: torch.Generator, total: int, first: int = 0
) -> Tensor:
    """``images`` (n, C, H, W), padded by ``padding`` zeros on each side, each cropped elsewhere.

    They are those from ``first`` on of a batch of ``total``. ``generator`` draws for all of it, so
    that processes which share a batch do what one alone would.
    """
    count, _, height, width = images.shape
    device = images.device
    offsets = torch.randint(2 * padding + 1, (2, total), generator=generator)
    down, right = offsets[:, first : first + count].to(device)
    padded = functional.pad(images, (padding, padding, padding, padding))
    # A view of all (2 padding + 1)^2 crops of every image; indexing copies one crop of each.
    crops = padded.unfold(2, height, 1).unfold(3, width, 1)
    return crops[torch.arange(count, device=device), :, down, right]


def random_mirror(images: Tensor, generator: torch.Generator, total: int, first: int = 0) -> Tensor:
    """``images``, of which a drawn half is mirrored; see :func:`random_crop`."""
    drawn = torch.randint(2, (total,), generator=generator)
    return mirror(images, drawn[first : first + len(images)].bool())


def mirror(images: Tensor, which: Tensor) -> Tensor:
    """``images`` (n, C, H, W), those mirrored where ``which`` (n,) is true."""
    which = which.to(images.device).view(-1, 1, 1, 1)
    return torch.where(which, images.flip(3), images)
