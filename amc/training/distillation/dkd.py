"""Logits of the target and of the other classes apart (Zhao et al. 2022)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from amc.training.distillation.base import Distillation, Outputs

ALPHA, BETA = 1.0, 8.0
"""Weights of the target class and of the others: the authors' on CIFAR-100."""


class DecoupledLogits(Distillation):
    """``T^2 (alpha KL(b_teacher || b_student) + beta KL(q_teacher || q_student))``.

    Of the softmax p of logits / T, ``b = (p_target, 1 - p_target)``, and q is p over the classes
    other than the target, where it sums to 1. With alpha = 1 and
    beta = 1 - p_target of the teacher it would be ``kd``. Zhao et al., Decoupled Knowledge
    Distillation, CVPR 2022, section 3. The target of a mixed image is the class with the largest
    label.
    """

    def forward(self, outputs: Outputs) -> Tensor:
        """The mean over the batch; 0 where both agree."""
        labels = outputs.labels if outputs.labels.dim() == 1 else outputs.labels.argmax(1)
        student, others = _split(outputs.student / outputs.temperature, labels)
        teacher, teacher_others = _split(outputs.teacher / outputs.temperature, labels)
        target_loss, other_loss = _kl(student, teacher), _kl(others, teacher_others)
        return outputs.temperature**2 * (ALPHA * target_loss + BETA * other_loss)


def _split(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of logits (N, C), the logarithms of b (N, 2) and of q (N, C - 1)."""
    logs = logits.log_softmax(1)
    target = labels.unsqueeze(1)
    # All columns but the target's: those from it on are one further right.
    columns = torch.arange(logits.shape[1] - 1, device=logits.device).expand(len(logits), -1)
    other_logs = logs.gather(1, columns + (columns >= target))
    binary = torch.cat([logs.gather(1, target), other_logs.logsumexp(1, keepdim=True)], 1)
    return binary, other_logs.log_softmax(1)


def _kl(student: Tensor, teacher: Tensor) -> Tensor:
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
