"""All losses together: a pruned network learns, and nothing is left in either network."""

import copy
import io
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from amc.config import FinetuneConfig
from amc.errors import ConfigError, ModelError
from amc.models.architectures import NETWORKS
from amc.pruning.slicing.slice import slice_model
from amc.registry import DISTILLATIONS
from amc.training.distillation.base import Outputs
from amc.training.distillation.teaching import Teaching

ALL = DISTILLATIONS.names()


@dataclass
class Pair:
    """A network with half of its channels, the whole one, and images."""

    student: nn.Module
    teacher: nn.Module
    images: Tensor
    labels: Tensor

    def teaching(self, *names: str, seed: int = 0, student: nn.Module | None = None) -> Teaching:
        config = FinetuneConfig(distill=names, seed=seed)
        student = self.student if student is None else student
        return Teaching(student, self.teacher, self.images[:2], config, nullcontext)


@pytest.fixture
def pair(subject: Callable) -> Pair:
    s = subject("resnet20")
    widths = [unit.widths[len(unit.widths) // 2] for unit in s.units]
    generator = torch.Generator().manual_seed(0)
    return Pair(
        slice_model(s.model, s.units, widths).train(),
        copy.deepcopy(s.model),
        torch.randn(16, 3, 32, 32, generator=generator),
        torch.randint(10, (16,), generator=generator),
    )


@pytest.mark.parametrize(
    ("names", "share"), [(ALL, 0.2), (("features",), 0.9), (("attention",), 0.9)]
)
def test_losses_are_learned(pair: Pair, names: tuple[str, ...], share: float) -> None:
    before = copy.deepcopy(pair.teacher.state_dict())
    teaching = pair.teaching(*names)
    learned = [*pair.student.parameters(), *teaching.parameters()]
    optimizer = torch.optim.Adam(learned, lr=2e-3)
    course: list[dict[str, float]] = []
    for _ in range(6):
        losses = teaching.losses(pair.student(pair.images), pair.images, pair.labels, 4.0)
        assert tuple(losses) == names
        optimizer.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in learned)
        assert all(p.grad is not None for p in teaching.parameters())
        optimizer.step()
        course.append({name: loss.item() for name, loss in losses.items()})
    assert sum(course[-1].values()) < share * sum(course[0].values())
    assert all(torch.equal(before[name], x) for name, x in pair.teacher.state_dict().items())
    assert all(p.grad is None for p in pair.teacher.parameters())


def test_activations_are_those_of_the_latest_forward(pair: Pair) -> None:
    teaching = pair.teaching("features", "attention", "kd")
    logits = pair.student(pair.images)
    maps = pair.student.bn1(pair.student.conv1(pair.images)).relu()
    mine, wanted = [maps], [pair.teacher.bn1(pair.teacher.conv1(pair.images)).relu()]
    for stage in ("layer1", "layer2", "layer3"):
        mine.append(pair.student.get_submodule(stage)(mine[-1]))
        wanted.append(pair.teacher.get_submodule(stage)(wanted[-1]))
    # A copy, such as the average of the weights, does not get in between.
    copy.deepcopy(pair.student)(torch.zeros(2, 3, 32, 32))
    logits = pair.student(pair.images)
    found = teaching.losses(logits, pair.images, pair.labels, 2.0)
    outputs = Outputs(
        logits, pair.teacher(pair.images).detach(), pair.labels, 2.0, mine[1:], wanted[1:]
    )
    for name, loss in found.items():
        torch.testing.assert_close(loss, teaching.parts[name](outputs))


def test_the_state_is_that_of_the_projections(pair: Pair) -> None:
    teaching, other = pair.teaching(*ALL), pair.teaching(*ALL, seed=1)
    names = [f"parts.features.projections.{i}.weight" for i in range(3)]
    assert list(teaching.state_dict()) == names == [n for n, _ in teaching.named_parameters()]
    file = io.BytesIO()
    torch.save(teaching.state_dict(), file)
    file.seek(0)
    assert not torch.equal(*(t.get_parameter(names[0]) for t in (teaching, other)))
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(*(t.get_parameter(names[0]) for t in (teaching, other)))
    before = torch.random.get_rng_state()
    again = pair.teaching(*ALL)
    assert torch.equal(again.get_parameter(names[0]), teaching.get_parameter(names[0]))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not list(pair.teaching("kd", "attention").parameters())


def test_closing_removes_all_hooks(pair: Pair) -> None:
    def hooks() -> int:
        networks = (pair.student, pair.teacher)
        return sum(len(m._forward_hooks) for network in networks for m in network.modules())

    assert pair.student.training
    teaching = pair.teaching(*ALL)
    assert hooks() == 6
    assert pair.student.training
    assert not pair.teacher.training
    teaching.close()
    assert hooks() == 0
    pair.teaching("kd", "dkd", "dist")
    assert hooks() == 0
    pair.teacher = NETWORKS["resnet20"](num_classes=7)
    with pytest.raises(ConfigError, match=r"gives \(2, 7\) for 2 images, but there are 10 classes"):
        pair.teaching(*ALL)
    pair.teacher = NETWORKS["resnet20"](in_channels=1)
    with pytest.raises(ModelError, match="the teacher fails on images of shape"):
        pair.teaching("kd")
    assert hooks() == 0


def test_a_compiled_student_is_taught_alike(pair: Pair) -> None:
    pair.student.eval()  # one forward leaves the statistics as they are
    plain = pair.teaching(*ALL)
    expected = plain.losses(pair.student(pair.images), pair.images, pair.labels, 4.0)
    plain.close()
    compiled = torch.compile(pair.student, backend="eager")
    teaching = pair.teaching(*ALL, student=compiled)
    for images in (pair.images.flip(0), pair.images):
        found = teaching.losses(compiled(images), images, pair.labels, 4.0)
    torch.testing.assert_close(found, expected)
    functional.cross_entropy(compiled(images), pair.labels).backward()
