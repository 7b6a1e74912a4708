"""What a network learns from a teacher: the losses of a recipe, and the activations they need."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from amc.config import FinetuneConfig
from amc.models.teacher import teacher_logits
from amc.registry import DISTILLATIONS
from amc.tracing.trace import eval_mode
from amc.training.distillation.base import Outputs
from amc.training.distillation.matching import Capture, matched_ends


class Teaching(nn.Module):
    """All losses of ``config.distill``. Its parameters, the learned projections, are trained with
    the student; in several processes their gradients have to be averaged like the student's.

    Activations are read by hooks, which :meth:`close` removes. So it is made before the student is
    compiled.

    Args:
        student: also wrapped (DistributedDataParallel, :func:`torch.compile`), on its device.
        teacher: moved to that device and put in eval mode. Neither network is a submodule of this.
        example: normalised images (n, C, H, W), n at least 2, on that device.
        config: which losses; ``seed`` draws the projections.
        autocast: makes the context in which the networks run.

    Raises:
        ConfigError: the teacher has other classes, or no activations to be compared.
        ModelError: a forward fails on ``example``.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        example: Tensor,
        config: FinetuneConfig,
        autocast: Callable[[], AbstractContextManager[object]],
    ) -> None:
        super().__init__()
        student = _inner(student)
        self._teacher = (teacher.to(example.device).eval(),)  # in a tuple it is no submodule
        self._autocast = autocast
        entries = [DISTILLATIONS.entry(name) for name in config.distill]
        ends = (
            matched_ends(student, teacher, example)
            if any(entry.traits["features"] for entry in entries)
            else ([], [])
        )
        self._captures = tuple(Capture(of_network) for of_network in ends)
        try:
            outputs = self._example(student, example, config.distill_temperature[0])
            with torch.random.fork_rng([]):
                torch.default_generator.manual_seed(config.seed)
                self.parts = nn.ModuleDict({e.name: e.load()(outputs) for e in entries})
        except BaseException:
            self.close()
            raise
        self.parts.to(example.device)

    def losses(
        self, student_logits: Tensor, images: Tensor, labels: Tensor, temperature: float
    ) -> dict[str, Tensor]:
        """The mean over the batch of each loss, unweighted, by its name.

        Args:
            student_logits: (N, classes), float32, of the student's latest forward, on ``images``.
            images: (N, C, H, W), normalised and perhaps mixed; the teacher sees the same.
            labels: (N,) in int64, or (N, classes).
            temperature: of this step.
        """
        student, teacher = self._captures
        with torch.no_grad(), self._autocast():
            teacher_logits = self._teacher[0](images).float()
        outputs = Outputs(
            student_logits, teacher_logits, labels, temperature, student.take(), teacher.take()
        )
        with torch.autocast(images.device.type, enabled=False):
            return {name: part(outputs) for name, part in self.parts.items()}

    def close(self) -> None:
        """Remove all hooks from both networks."""
        for capture in self._captures:
            capture.close()

    def _example(self, student: nn.Module, example: Tensor, temperature: float) -> Outputs:
        """What both networks make of ``example``."""
        with torch.no_grad(), eval_mode(student), self._autocast():
            logits = student(example).float()
            wanted = teacher_logits(self._teacher[0], example, logits.shape[1])
        labels = torch.zeros(len(example), dtype=torch.int64, device=example.device)
        mine, others = (capture.take() for capture in self._captures)
        return Outputs(logits, wanted, labels, temperature, mine, others)


def _inner(model: nn.Module) -> nn.Module:
    """The network in wrappers, which run its own modules."""
    while isinstance(model, DistributedDataParallel) or hasattr(model, "_orig_mod"):
        compiled = not isinstance(model, DistributedDataParallel)
        model = cast(nn.Module, model._orig_mod if compiled else model.module)
    return model
