"""What the losses of distillation have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class Outputs:
    """What student and teacher make of one batch. All are float32."""

    student: Tensor
    """Logits (N, classes)."""
    teacher: Tensor
    """Logits (N, classes), without gradient."""
    labels: Tensor
    """(N,) in int64, or (N, classes) where images are mixed."""
    temperature: float
    """Of this step."""
    student_features: Sequence[Tensor] = ()
    """Activations at the ends of blocks, in the order of the forward."""
    teacher_features: Sequence[Tensor] = ()
    """Their partners in the teacher, of the same height and width, without gradient."""


class Distillation(nn.Module):
    """A loss of one batch. Its parameters, if it has any, are trained with the student.

    Args:
        example: outputs of one batch, from which it learns shapes.
    """

    def __init__(self, example: Outputs) -> None:  # noqa: ARG002 (of use to some)
        super().__init__()

    def forward(self, outputs: Outputs) -> Tensor:
        """The mean over the batch, a scalar."""
        raise NotImplementedError
