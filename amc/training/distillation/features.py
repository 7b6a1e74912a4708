"""Activations at the ends of blocks, by learned projections (Romero et al. 2015)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from amc.training.distillation.base import Distillation, Outputs


class ProjectedFeatures(Distillation):
    """Mean over the pairs of ends of ``|P student - teacher|^2 / |teacher|^2``.

    P is a learned 1x1 convolution onto the teacher's channels; where there are equally many it
    begins as the identity. Romero et al., FitNets, ICLR 2015, equation 3, at several ends, and on a
    scale of about 1 whatever that of the activations is.
    """

    def __init__(self, example: Outputs) -> None:
        super().__init__(example)
        self.projections = nn.ModuleList(
            _projection(mine.shape[1], wanted.shape[1])
            for mine, wanted in zip(example.student_features, example.teacher_features, strict=True)
        )

    def forward(self, outputs: Outputs) -> Tensor:
        """The mean over the batch; 0 where every projection hits."""
        losses = [
            functional.mse_loss(projection(mine), wanted) / wanted.square().mean().clamp_min(1e-12)
            for projection, mine, wanted in zip(
                self.projections, outputs.student_features, outputs.teacher_features, strict=True
            )
        ]
        return torch.stack(losses).mean()


def _projection(inputs: int, outputs: int) -> nn.Conv2d:
    projection = nn.Conv2d(inputs, outputs, 1, bias=False)
    if inputs == outputs:
        nn.init.dirac_(projection.weight)
    return projection
