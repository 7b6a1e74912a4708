"""Each loss against its formula in NumPy, its gradient against finite differences."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from amc.registry import DISTILLATIONS
from amc.training.distillation.base import Distillation, Outputs

TEMPERATURE = 3.0


def example(width: int = 5) -> Outputs:
    """Outputs of 6 images and 4 classes in float64, for exact gradients."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Outputs(
        student=normal(6, 4) * 3,
        teacher=normal(6, 4) * 3,
        labels=torch.tensor([0, 1, 2, 3, 1, 0]),
        temperature=TEMPERATURE,
        student_features=[normal(6, width, 4, 4), normal(6, 3, 2, 1)],
        teacher_features=[normal(6, 5, 4, 4), normal(6, 4, 2, 1)],
    )


def loss_of(name: str, outputs: Outputs) -> Distillation:
    torch.manual_seed(0)
    made: Distillation = DISTILLATIONS.load(name)(outputs).double()
    return made


def softmax(logits: Tensor) -> NDArray[np.float64]:
    powers = np.exp(logits.numpy() / TEMPERATURE)
    return powers / powers.sum(1, keepdims=True)


def kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    return float((p * np.log(p / q)).sum(-1).mean())


def test_kd_is_the_divergence_of_softened_logits() -> None:
    outputs = example()
    expected = TEMPERATURE**2 * kl(softmax(outputs.teacher), softmax(outputs.student))
    assert loss_of("kd", outputs)(outputs).item() == pytest.approx(expected)


def test_dkd_weighs_target_and_other_classes_apart() -> None:
    outputs = example()
    binary, others = [], []
    for p in (softmax(outputs.teacher), softmax(outputs.student)):
        rows, labels = np.arange(6), outputs.labels.numpy()
        target = p[rows, labels]
        binary.append(np.stack([target, 1 - target], 1))
        rest = np.stack([np.delete(p[i], labels[i]) for i in rows])
        others.append(rest / rest.sum(1, keepdims=True))
    expected = TEMPERATURE**2 * (kl(*binary) + 8 * kl(*others))
    loss = loss_of("dkd", outputs)
    assert loss(outputs).item() == pytest.approx(expected)
    # Of a mixed image the class with the largest label counts.
    mixed = 0.6 * torch.eye(4)[outputs.labels] + 0.4 * torch.eye(4)[outputs.labels.roll(1)]
    assert loss(replace(outputs, labels=mixed)).item() == pytest.approx(expected)


def test_dist_is_what_correlations_lack() -> None:
    outputs = example()
    student, teacher = softmax(outputs.student), softmax(outputs.teacher)
    rows = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(student, teacher, strict=True)])
    columns = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(student.T, teacher.T, strict=True)])
    expected = TEMPERATURE**2 * ((1 - rows) + (1 - columns))
    assert loss_of("dist", outputs)(outputs).item() == pytest.approx(expected)


def test_features_are_projected_onto_the_teachers() -> None:
    outputs = example(width=2)
    loss = loss_of("features", outputs)
    weights = [weight.detach().numpy()[:, :, 0, 0] for weight in loss.parameters()]
    assert [weight.shape for weight in weights] == [(5, 2), (4, 3)]
    expected = []
    for weight, mine, wanted in zip(
        weights, outputs.student_features, outputs.teacher_features, strict=True
    ):
        difference = np.einsum("oc,nchw->nohw", weight, mine.numpy()) - wanted.numpy()
        expected.append((difference**2).sum() / (wanted.numpy() ** 2).sum())
    assert loss(outputs).item() == pytest.approx(np.mean(expected))


def test_attention_compares_maps_of_norm_one() -> None:
    outputs = example()
    expected = []
    for pair in zip(outputs.student_features, outputs.teacher_features, strict=True):
        maps = [(a.numpy() ** 2).sum(1).reshape(6, -1) for a in pair]
        mine, wanted = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps)
        expected.append(((mine - wanted) ** 2).sum(1).mean())
    assert loss_of("attention", outputs)(outputs).item() == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("name", DISTILLATIONS.names())
def test_gradients_are_those_of_the_loss(name: str) -> None:
    outputs = example()
    loss = loss_of(name, outputs)

    def of(logits: Tensor, *features: Tensor) -> Tensor:
        return loss(replace(outputs, student=logits, student_features=features))  # type: ignore[no-any-return]

    inputs = [x.requires_grad_() for x in (outputs.student, *outputs.student_features)]
    assert torch.autograd.gradcheck(of, inputs)


@pytest.mark.parametrize("name", DISTILLATIONS.names())
def test_a_student_like_its_teacher_has_nothing_to_learn(name: str) -> None:
    outputs = example()
    logits = outputs.teacher.clone().requires_grad_()
    features = [x.clone().requires_grad_() for x in outputs.teacher_features]
    same = replace(outputs, student=logits, student_features=features)
    loss = loss_of(name, same)(same)
    assert loss.item() == pytest.approx(0, abs=1e-9)
    gradients = torch.autograd.grad(loss, (logits, *features), allow_unused=True)
    assert all(g is None or g.abs().max() < 1e-7 for g in gradients)
    assert loss_of(name, outputs)(outputs) > 0.1


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e4])
@pytest.mark.parametrize("name", DISTILLATIONS.names())
def test_dead_and_huge_activations_have_finite_gradients(name: str, scale: float) -> None:
    outputs = example()
    logits = (outputs.student * scale).float().requires_grad_()
    features = [(x * scale).float().requires_grad_() for x in outputs.student_features]
    single = Outputs(
        logits,
        (outputs.teacher * scale).float(),
        outputs.labels,
        1.0,
        features,
        [(x * scale).float() for x in outputs.teacher_features],
    )
    loss = loss_of(name, single).float()(single)
    gradients = torch.autograd.grad(loss, (logits, *features), allow_unused=True)
    assert loss.isfinite()
    assert all(g is None or g.isfinite().all() for g in gradients)
