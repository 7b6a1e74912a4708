"""Recovery training: its loss and schedule by hand, the same seed the same bits, real learning."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from amc.config import DataConfig, FinetuneConfig
from amc.errors import EvaluationError
from amc.models.architectures import NETWORKS
from amc.task import Epoch
from amc.training.finetune import distillation_loss, finetune, learning_rate, make_optimizer
from amc.vision.data import ImageData, Split
from amc.vision.evaluator import accuracy
from amc.vision.sources import load_data


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data(DataConfig(), progress=False)


@pytest.fixture(scope="module")
def few(digits: ImageData) -> ImageData:
    """200 training images: epochs of a few milliseconds."""
    return ImageData(**{**vars(digits), "train": digits.train.take(torch.arange(200))})


def fresh(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return NETWORKS["smallcnn"]()


def gaussian(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_training_learns_the_digits(digits: ImageData) -> None:
    model = fresh()
    epochs: list[Epoch] = []
    steps: list[tuple[int, int]] = []
    config = FinetuneConfig(epochs=4, batch_size=32, distill_weight=0)
    history = finetune(
        model,
        digits,
        config,
        teacher=None,
        on_epoch=epochs.append,
        on_step=lambda done, total: steps.append((done, total)),
    )
    assert history == epochs
    assert [epoch.number for epoch in history] == [1, 2, 3, 4]
    assert history[-1].test_accuracy > 0.94
    assert history[-1].test_accuracy == accuracy(model, digits, digits.test)
    assert history[-1].train_loss < 0.3 * history[0].train_loss
    total = 4 * math.ceil(len(digits.train) / 32)
    assert steps == [(done, total) for done in range(1, total + 1)]
    assert not model.training
    assert all(p.is_contiguous() for p in model.parameters())


def test_a_student_learns_from_its_teacher_alone(digits: ImageData) -> None:
    teacher = fresh()
    config = FinetuneConfig(epochs=4, batch_size=32)
    finetune(teacher, digits, config, teacher=None)
    before = copy.deepcopy(teacher.state_dict())
    # Labels of the wrong class everywhere: with weight 1 only the teacher counts.
    wrong = Split(digits.train.images, (digits.train.labels + 1) % 10)
    student = fresh(1)
    config = FinetuneConfig(epochs=4, batch_size=32, distill_weight=1)
    data = ImageData(**{**vars(digits), "train": wrong})
    history = finetune(student, data, config, teacher=teacher)
    assert history[-1].test_accuracy > 0.9
    assert all(torch.equal(before[name], t) for name, t in teacher.state_dict().items())


def test_same_seed_same_bits(few: ImageData) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        states = []
        for seed, noise in ((0, 1), (0, 2), (1, 1)):
            # The dropout draws from PyTorch's global generator.
            model, teacher = nn.Sequential(nn.Dropout(0.2), fresh()), fresh(5)
            torch.manual_seed(noise)
            state = torch.random.get_rng_state()
            config = FinetuneConfig(epochs=2, batch_size=50, seed=seed)
            finetune(model, few, config, teacher=teacher)
            assert torch.equal(torch.random.get_rng_state(), state)
            states.append(model.state_dict())
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(states[0][name], t) for name, t in states[1].items())
    assert not torch.equal(states[0]["1.conv1.weight"], states[2]["1.conv1.weight"])


def test_no_epochs_change_nothing(few: ImageData) -> None:
    model = fresh()
    before = copy.deepcopy(model.state_dict())
    assert finetune(model, few, FinetuneConfig(epochs=0), teacher=None) == []
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())


def test_a_loss_that_is_not_finite_names_the_remedy(few: ImageData) -> None:
    config = FinetuneConfig(epochs=2, lr=1e30, warmup_epochs=0, batch_size=20)
    with pytest.raises(EvaluationError, match="lower lr"):
        finetune(fresh(), few, config, teacher=None)


def test_distillation_loss_by_hand() -> None:
    logits, teacher = gaussian(6, 4, seed=0), gaussian(6, 4, seed=1)
    labels = torch.tensor([0, 1, 2, 3, 0, 1])

    def soften(z: torch.Tensor, temperature: float) -> np.ndarray:
        e = np.exp(z.double().numpy() / temperature)
        return e / e.sum(1, keepdims=True)

    p, q, hard = soften(teacher, 3), soften(logits, 3), soften(logits, 1)
    kl = (p * np.log(p / q)).sum(1).mean()
    cross_entropy = -np.log(hard[np.arange(6), labels]).mean()
    found = distillation_loss(logits, teacher, labels, weight=0.6, temperature=3)
    assert found.item() == pytest.approx(0.6 * 9 * kl + 0.4 * cross_entropy, rel=1e-5)


def test_at_high_temperature_distillation_matches_logits() -> None:
    # Hinton et al. 2015, equation 4: for zero-mean logits the gradient becomes (z - v) / N.
    logits, teacher = gaussian(8, 5, seed=0), gaussian(8, 5, seed=1)
    logits, teacher = logits - logits.mean(1, True), teacher - teacher.mean(1, True)
    logits.requires_grad_()
    labels = torch.zeros(8, dtype=torch.int64)
    distillation_loss(logits, teacher, labels, weight=1, temperature=200).backward()
    expected = (logits.detach() - teacher) / 5 / 8
    torch.testing.assert_close(logits.grad, expected, rtol=0.05, atol=2e-4)


def test_schedule_warms_up_and_falls_to_zero() -> None:
    rates = [learning_rate(step, 100, 10, 0.5) for step in range(100)]
    assert rates[:10] == pytest.approx([0.05 * (step + 1) for step in range(10)])
    assert rates[10] == 0.5
    assert rates[55] == pytest.approx(0.25)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert 0 < rates[-1] < 0.001
    assert learning_rate(0, 5, 0, 0.1) == 0.1


def test_only_matrices_decay() -> None:
    model = fresh()
    optimizer = make_optimizer(model, FinetuneConfig(weight_decay=0.01))
    decayed, free = optimizer.param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0)
    assert {names[id(p)].rsplit(".")[-2][:2] for p in free["params"]} == {"bn", "li"}
    assert "linear.bias" in {names[id(p)] for p in free["params"]}
    assert all(names[id(p)].endswith("weight") for p in decayed["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    frozen = fresh()
    frozen.conv1.weight.requires_grad_(False)
    kept = [
        p
        for group in make_optimizer(frozen, FinetuneConfig()).param_groups
        for p in group["params"]
    ]
    assert all(p is not frozen.conv1.weight for p in kept)
