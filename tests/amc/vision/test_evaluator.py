"""Scores against arithmetic by hand, recalibration against its definition."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amc.compute import layout
from amc.config import EvaluateConfig
from amc.errors import EvaluationError
from amc.models.architectures import NETWORKS
from amc.vision.data import ImageData, Split
from amc.vision.evaluator import Evaluator, recalibrate_


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(weight: Tensor) -> nn.Module:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    layer.weight = nn.Parameter(weight)
    return nn.Sequential(nn.Flatten(), layer)


def convnet(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = NETWORKS["smallcnn"]().eval()
    recalibrate_(model, [gaussian(64, 1, 8, 8, seed=seed)])
    nn.init.normal_(model.linear.weight, std=0.3)
    return model


def digits_like(count: int = 200) -> ImageData:
    generator = torch.Generator().manual_seed(0)

    def split(size: int) -> Split:
        images = torch.randint(256, (size, 1, 8, 8), dtype=torch.uint8, generator=generator)
        return Split(images, torch.arange(size) % 10)

    return ImageData(
        name="noise",
        classes=tuple("0123456789"),
        train=split(count),
        search_val=split(count // 2),
        test=split(25),
        mean=(0.5,),
        std=(0.5,),
        crop_padding=1,
        flip=False,
    )


def test_quality_equals_its_formulas() -> None:
    val, labels = gaussian(30, 2, 2, 2), torch.arange(30) % 5
    dense, candidate = gaussian(5, 8, seed=1), gaussian(5, 8, seed=2)
    evaluator = Evaluator(linear(dense), val, labels, val[:0], batch_size=7, bf16=False)
    quality = evaluator(linear(candidate))

    def probabilities(weight: Tensor) -> np.ndarray:
        logits = val.flatten(1).double().numpy() @ weight.double().numpy().T
        return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)

    p, q = probabilities(dense), probabilities(candidate)
    rows = np.arange(30)
    assert quality.accuracy == np.mean(q.argmax(1) == labels.numpy())
    assert quality.cross_entropy == pytest.approx(-np.log(q[rows, labels]).mean(), rel=1e-5)
    assert quality.kl == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-5)
    assert evaluator.dense_quality.accuracy == np.mean(p.argmax(1) == labels.numpy())
    assert evaluator.dense_quality.kl == 0
    assert set(evaluator.seconds) == {"recalibrate", "forward"}


def test_divergences_are_the_kl_in_parts_with_its_gradient() -> None:
    val, labels = gaussian(128, 2, 2, 2), torch.arange(128) % 5
    dense, candidate = linear(gaussian(5, 8, seed=1)), linear(gaussian(5, 8, seed=2))
    evaluator = Evaluator(dense, val, labels, val[:0], batch_size=50, bf16=False)
    parts = list(evaluator.divergences(candidate))
    assert len(parts) == 4
    mean = torch.stack(parts).mean()
    assert mean.item() == pytest.approx(evaluator(candidate).kl, rel=1e-5)
    mean.backward()
    # The KL's gradient by the logits is the difference of the probabilities.
    with torch.no_grad():
        difference = candidate(val).softmax(1) - dense(val).softmax(1)
    expected = difference.T @ val.flatten(1) / 128
    torch.testing.assert_close(candidate[1].weight.grad, expected, rtol=1e-4, atol=1e-6)
    assert dense[1].weight.grad is None


def test_recalibration_averages_the_batches_statistics() -> None:
    batches = [3 + 2 * gaussian(20, 4, 3, 3, seed=seed) for seed in range(3)]
    model = nn.Sequential(nn.BatchNorm2d(4, momentum=0.25), nn.Dropout(0.5))
    model[0].running_mean.fill_(50.0)
    modes: list[tuple[bool, bool]] = []
    model[1].register_forward_hook(lambda *_: modes.append((model[0].training, model[1].training)))
    recalibrate_(model.train(), batches)
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches])
    variances = torch.stack([batch.var((0, 2, 3)) for batch in batches])
    torch.testing.assert_close(model[0].running_mean, means.mean(0))
    torch.testing.assert_close(model[0].running_var, variances.mean(0))
    assert modes == [(True, False)] * 3
    assert model[0].momentum == 0.25
    assert not any(module.training for module in model.modules())


def test_recalibration_restores_the_model_after_an_error() -> None:
    model = nn.Sequential(nn.BatchNorm2d(4, momentum=0.25))
    with pytest.raises(RuntimeError):
        recalibrate_(model, [gaussian(2, 5, 3, 3)])
    assert (model[0].momentum, model[0].training) == (0.25, False)


def test_recalibration_runs_no_forward_for_nothing() -> None:
    calls = []
    plain = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    plain.register_forward_hook(lambda *_: calls.append("plain"))
    recalibrate_(plain, [gaussian(3, 4)])
    norm = nn.Sequential(nn.BatchNorm1d(4))
    norm[0].running_mean.fill_(5.0)
    norm.register_forward_hook(lambda *_: calls.append("norm"))
    recalibrate_(norm, [])
    assert calls == []
    assert norm[0].running_mean.eq(5.0).all()


def test_recalibration_undoes_a_change_that_batchnorm_absorbs() -> None:
    val, labels, calibration = gaussian(60, 1, 8, 8), torch.arange(60) % 10, gaussian(50, 1, 8, 8)
    dense = convnet(0)
    recalibrate_(dense, [calibration])
    candidate = copy.deepcopy(dense)
    with torch.no_grad():
        candidate.conv2.weight *= 7  # the statistics of bn2 are now wrong by that factor
    stale = Evaluator(dense, val, labels, calibration[:0], bf16=False)(copy.deepcopy(candidate))
    fresh = Evaluator(dense, val, labels, calibration, bf16=False)(candidate)
    assert stale.kl > 0.05
    assert abs(fresh.kl) < 1e-5


def test_batch_size_does_not_change_the_scores() -> None:
    val, labels = gaussian(61, 1, 8, 8), torch.arange(61) % 10
    dense, candidate = convnet(0), convnet(1)
    scores = [
        Evaluator(dense, val, labels, val[:0], batch_size=size, bf16=False)(candidate)
        for size in (4, 61, 1000)
    ]
    for score in scores[1:]:
        assert score.accuracy == scores[0].accuracy
        assert score.kl == pytest.approx(scores[0].kl, rel=1e-4)


def test_bf16_agrees_with_float32() -> None:
    val, labels = gaussian(100, 1, 8, 8), torch.arange(100) % 10
    dense, candidate = convnet(0), convnet(1)
    exact, coarse = (
        Evaluator(dense, val, labels, val[:50], bf16=bf16)(copy.deepcopy(candidate))
        for bf16 in (False, True)
    )
    assert exact.kl > 0.3
    assert coarse.kl == pytest.approx(exact.kl, rel=0.03)
    # The dense network is computed in the same mode: against itself it stays exact.
    mine = Evaluator(dense, val, labels, val[:0], bf16=True)(copy.deepcopy(dense))
    assert mine.kl == 0


def test_scores_that_are_not_numbers_are_errors() -> None:
    val, labels = gaussian(10, 1, 8, 8), torch.arange(10)
    dense = convnet(0)
    broken = copy.deepcopy(dense)
    with torch.no_grad():
        broken.linear.bias[3] = float("nan")
    with pytest.raises(EvaluationError, match="candidate's logits are not finite"):
        Evaluator(dense, val, labels, val[:0])(broken)
    with pytest.raises(EvaluationError, match="dense network's logits are not finite"):
        Evaluator(broken, val, labels, val[:0])
    with pytest.raises(EvaluationError, match="10 images and 9 labels"):
        Evaluator(dense, val, labels[:9], val[:0])


def test_from_data_draws_seeded_subsets_and_augments_calibration() -> None:
    data, dense = digits_like(), convnet(0)
    config = EvaluateConfig(images=40, calibration_images=60, bf16=False)

    class Recorder(Evaluator):
        def __init__(
            self, _dense: nn.Module, val: Tensor, labels: Tensor, calibration: Tensor, **_
        ):
            assert torch.bincount(labels).tolist() == [4] * 10
            self.parts = (val, calibration)

    first, again, other = (Recorder.from_data(dense, data, config, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first.parts, again.parts, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first.parts, other.parts, strict=True))
    val, calibration = first.parts
    stored = {image.numpy().tobytes() for image in data.normalise(data.search_val.images)}
    assert all(image.numpy().tobytes() in stored for image in val)
    assert len(calibration) == 60
    # Eight of nine crops by one pixel differ from the stored image.
    stored = {image.numpy().tobytes() for image in data.normalise(data.train.images)}
    plain = sum(image.contiguous().numpy().tobytes() in stored for image in calibration)
    assert plain < 20
    everything = Recorder.from_data(dense, data, EvaluateConfig(images=40, calibration_images=999))
    assert len(everything.parts[1]) == 200


def test_layers_with_unsound_kernels_run_contiguous(monkeypatch):
    val, labels = gaussian(20, 1, 8, 8), torch.arange(20) % 10
    expected = Evaluator(convnet(1), val, labels, val[:8], bf16=False)(convnet(2))
    monkeypatch.setattr(layout, "unsound", set)  # all of them
    guarded, candidate = Evaluator(convnet(1), val, labels, val[:8], bf16=False), convnet(2)
    seen: list[bool] = []
    forward = nn.Conv2d._conv_forward

    def look(layer: nn.Conv2d, images: Tensor, *others: Tensor | None) -> Tensor:
        seen.append(images.stride() == torch.empty(images.shape).stride())
        return forward(layer, images, *others)

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", look)
    found = guarded(candidate)
    assert seen
    assert all(seen)
    assert not any(module._forward_pre_hooks for module in candidate.modules())
    assert found.cross_entropy == pytest.approx(expected.cross_entropy, rel=1e-4)
    assert found.kl == pytest.approx(expected.kl, rel=1e-4)
