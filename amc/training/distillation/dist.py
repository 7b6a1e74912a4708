"""Correlations between and within the classes (Huang et al. 2022)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from amc.training.distillation.base import Distillation, Outputs


class Correlations(Distillation):
    """``T^2 ((1 - mean of row correlations) + (1 - mean of column correlations))``.

    The Pearson correlations are those of ``softmax(student / T)`` and ``softmax(teacher / T)``,
    (N, classes): a row is an image (relations between classes), a column a class (relations of the
    batch's images within it). Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS
    2022, section 3; T^2 is in the authors' code. A row or a column that does not vary
    correlates with nothing.
    """

    def forward(self, outputs: Outputs) -> Tensor:
        """Between 0, where both agree up to scale and shift, and 4 T^2."""
        student = (outputs.student / outputs.temperature).softmax(1)
        teacher = (outputs.teacher / outputs.temperature).softmax(1)
        between, within = _correlation(student, teacher), _correlation(student.T, teacher.T)
        return outputs.temperature**2 * (2 - between - within)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Mean Pearson correlation of the rows of ``a`` and ``b``, (R, K)."""
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return functional.cosine_similarity(a, b, dim=1).mean()
