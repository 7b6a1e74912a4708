"""A sliced network that fails while a search scores it: one line, and only where it is to blame."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from amc.errors import VerificationError
from amc.pruning.find_units import find_units
from amc.pruning.plan_evaluator import PlanEvaluator
from amc.task import Task


class Fastidious(nn.Module):
    """Takes any number of channels but six."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        if h.shape[1] == 6:
            h = h.view(-1, 5, 7)  # here
        out: Tensor = self.b(h)
        return out


def test_a_plan_that_cannot_run_is_one_line_that_says_where():
    model, x = Fastidious().eval(), torch.randn(1, 3, 4, 4)
    units = find_units(model, x)
    failing = False

    def evaluate(small: nn.Module) -> dict[str, float]:
        if failing:
            raise ValueError("the task's own mistake")
        return {"accuracy": float(small(x).detach().sum())}

    score = PlanEvaluator(Task(model, x, evaluate), units)
    score([5])
    line = Fastidious.forward.__code__.co_firstlineno + 3
    with pytest.raises(
        VerificationError, match=rf"fails, .*\(at test_failures.py:{line}\)"
    ) as told:
        score([6])
    assert len(str(told.value).splitlines()) == 1
    failing = True
    with pytest.raises(ValueError, match="own mistake"):
        score([7])
