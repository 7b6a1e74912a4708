"""Softened logits (Hinton, Vinyals and Dean 2015)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from amc.training.distillation.base import Distillation, Outputs


class SoftenedLogits(Distillation):
    """``T^2 KL(softmax(teacher / T) || softmax(student / T))``.

    Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015, section 2: T^2
    keeps the gradients on the scale of those of the labels.
    """

    def forward(self, outputs: Outputs) -> Tensor:
        """The mean over the batch; 0 where both agree."""
        return outputs.temperature**2 * functional.kl_div(
            functional.log_softmax(outputs.student / outputs.temperature, 1),
            functional.log_softmax(outputs.teacher / outputs.temperature, 1),
            reduction="batchmean",
            log_target=True,
        )
