"""Maps of where a network looks (Zagoruyko and Komodakis 2017)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from amc.training.distillation.base import Distillation, Outputs


class AttentionMaps(Distillation):
    """Mean over the pairs of ends of ``|Q_student - Q_teacher|^2``.

    Of an activation A, Q is the map over its positions of ``sum over channels of A^2``, divided by
    its Euclidean norm. Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017,
    equation 2 with p = 2; squared as in the authors' code, but summed over positions, so that it is
    between 0 and 2 for maps of every size.
    """

    def forward(self, outputs: Outputs) -> Tensor:
        """The mean over the batch; 0 where the maps agree."""
        losses = [
            (_map(mine) - _map(wanted)).square().sum(1).mean()
            for mine, wanted in zip(outputs.student_features, outputs.teacher_features, strict=True)
        ]
        return torch.stack(losses).mean()


def _map(activation: Tensor) -> Tensor:
    """(N, C, H, W) to (N, H W), each of norm 1."""
    return functional.normalize(activation.square().sum(1).flatten(1), dim=1)
