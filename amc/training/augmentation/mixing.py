"""Batches whose images are mixed in pairs, and their labels with them."""

from __future__ import annotations

import torch
from torch import Tensor

CUTMIX_ALPHA = 1.0
"""Of the beta distribution of the area that stays: uniform (Yun et al. 2019, arXiv 1905.04899)."""
MIXUP_ALPHA = 0.2
"""Of the beta distribution of the weights (Zhang et al. 2018, arXiv 1710.09412, on ImageNet)."""


class Mixing:
    """CutMix and MixUp of :mod:`torchvision.transforms.v2`, each in its share of the batches.

    Args:
        shares: of the batches that CutMix and that MixUp gets, at most 1 together.
        classes: how many there are.
    """

    def __init__(self, shares: tuple[float, float], classes: int) -> None:
        self.shares = shares
        self.classes = classes

    def __call__(
        self, images: Tensor, labels: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Normalised images (N, C, H, W) and labels (N,), mixed: labels become (N, classes) in
        float32; or both as they are.

        Each image is mixed with the one before it. Processes that share a batch mix it alike (each
        in its own part), if their generators are in the same state.
        """
        if not any(self.shares):
            return images, labels
        from torchvision.transforms import v2  # takes a second

        drawn = torch.rand((), generator=generator, dtype=torch.float64).item()
        seed = int(torch.randint(2**62, (), generator=generator))
        if drawn >= sum(self.shares):
            return images, labels
        kind, alpha = (
            (v2.CutMix, CUTMIX_ALPHA) if drawn < self.shares[0] else (v2.MixUp, MIXUP_ALPHA)
        )
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)  # leaves other devices alone
            mixed: tuple[Tensor, Tensor] = kind(alpha=alpha, num_classes=self.classes)(
                images, labels
            )
        return mixed
