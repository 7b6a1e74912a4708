"""Each criterion against its definition: heads of a transformer, and tied layers of a residual."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from amc.pruning.find_units import find_units, read_units
from amc.pruning.importance.entropy import BINS, histogram_entropy
from amc.pruning.importance.score import score
from amc.tracing.units import Unit, Units


class Residual(nn.Module):
    """A stream with two producers and three readers, one of them grouped, and one inner layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.inner, self.back = nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(5, 4, 1)
        self.side = nn.Conv2d(4, 2, 2, groups=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.stem(x))
        y = y + self.back(torch.tanh(self.inner(y)))
        out: Tensor = self.head(y.mean((2, 3))) + self.side(y).sum((1, 2, 3))[:, None]
        return out


def drawn(model: nn.Module) -> nn.Module:
    """``model`` in double precision, with weights that no initialisation gives."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.double().parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return model.eval()


def batches(*shape: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]


def loss_on(images: list[Tensor]) -> Callable[[nn.Module], object]:
    def loss(model: nn.Module) -> object:
        for x in images:
            logits = model(x).flatten(0, -2)
            yield functional.cross_entropy(logits, torch.arange(len(logits)) % 3)

    return loss


def unit_of(units: Units, name: str) -> Unit:
    return next(unit for unit in units if unit.name == name)


def gated_losses(model: nn.Module, weights: list[Tensor], images: list[Tensor]) -> np.ndarray:
    """(batches,) derivative of each loss by a gate on what the slices ``weights`` read."""
    step, found = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            saved = [weight.clone() for weight in weights]
            for weight in weights:
                weight.mul_(1 + sign * step)
            found.append([float(loss) for loss in loss_on(images)(model)])
            for weight, old in zip(weights, saved, strict=True):
                weight.copy_(old)
    return (np.array(found[0]) - np.array(found[1])) / (2 * step)


def entropy_of(means: Tensor) -> float:
    counts, _ = np.histogram(means.numpy(), BINS)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def test_everything_tied_into_a_residual_stream_is_summed():
    model, images = drawn(Residual()), batches(2, 3, 6, 6)
    units = read_units(model, images[0])
    stream, inner = (unit_of(units, name) for name in ("stem", "inner"))
    number = units.items.index(stream)
    # The groups of `side` tie channels 0 and 2, 1 and 3.
    pairs = [[0, 2], [1, 3]]
    assert [s.index.tolist() for s in stream.slots if s.tensor == "stem.weight"] == [pairs]

    def of(criterion: str) -> np.ndarray:
        return score(model, units, criterion, calibration=images, loss=loss_on(images))[number]

    produced = [model.stem.weight.detach(), model.back.weight.detach()]
    read = [model.inner.weight.detach(), model.head.weight.detach()]
    side = model.side.weight.detach()  # its one input dimension stands for both channels of a pair
    rows = [[w[pair].flatten() for pair in pairs] for w in produced]
    sums = [sum(float(row[n].abs().sum()) for row in rows) for n in range(2)]
    np.testing.assert_allclose(of("l1"), sums)
    squares = [sum(float(row[n].square().sum()) for row in rows) for n in range(2)]
    np.testing.assert_allclose(of("l2"), np.sqrt(squares))
    scale = model.norm.weight.detach()[torch.tensor(pairs)]
    np.testing.assert_allclose(of("bn-scale"), scale.abs().sum(1))
    apart = sum(float((row[0] - row[1]).norm()) for row in rows)
    np.testing.assert_allclose(of("geometric-median"), [apart, apart])
    read_squares = [
        sum(float(w[:, pair].square().sum()) for w in read) + float(side[:, n].square().sum())
        for n, pair in enumerate(pairs)
    ]
    expected = np.sqrt(np.array(read_squares) * scale.square().sum(1).numpy())
    np.testing.assert_allclose(of("contribution"), expected)

    # By a forward of our own.
    with torch.no_grad():
        x = torch.cat(images)
        first = model.norm(model.stem(x))
        second = first + model.back(torch.tanh(model.inner(first)))
        pooled = second.mean((2, 3))
    sizes = [
        sum(float(first[:, c].abs().mean() + pooled[:, c].abs().mean()) for c in pair)
        + float(second[:, pair].abs().mean())
        for pair in pairs
    ]
    np.testing.assert_allclose(of("activation"), sizes, rtol=1e-5)
    entropies = [
        sum(entropy_of(first[:, c].mean((1, 2))) + entropy_of(pooled[:, c]) for c in pair)
        + entropy_of(second[:, pair].mean((1, 2, 3)))
        for pair in pairs
    ]
    np.testing.assert_allclose(of("entropy"), entropies, rtol=1e-5)
    for n, pair in enumerate(pairs):
        gated = [w.data[:, c] for w in (model.inner.weight, model.head.weight) for c in pair]
        slope = gated_losses(model, [*gated, model.side.weight.data[:, n]], images)
        np.testing.assert_allclose(of("taylor")[n], abs(slope).mean(), rtol=1e-6)
    other = score(model, units, "taylor", loss=loss_on(images))[units.items.index(inner)]
    for channel in range(5):
        slope = gated_losses(model, [model.back.weight.data[:, channel]], images)
        np.testing.assert_allclose(other[channel], abs(slope).mean(), rtol=1e-6)


@pytest.mark.parametrize("norm", [nn.Identity, nn.BatchNorm2d])
@pytest.mark.parametrize("faint", [0.0, 1e-12])
def test_filters_that_are_dead_go_first(norm, faint):
    """By a forward: the channels that are the same for all images are ranked last, whatever the
    weights that read them. (Masks of torch.nn.utils.prune, made permanent, leave such ones.)"""
    model = drawn(
        nn.Sequential(
            *(nn.Conv2d(3, 12, 3), norm(12), nn.ReLU(), nn.Conv2d(12, 8, 3), norm(8)),
            *(nn.ReLU(), nn.Conv2d(8, 3, 1)),
        )
    )
    images, dead = torch.cat(batches(4, 3, 8, 8)), {0: [1, 4, 7, 8], 3: [0, 5]}
    with torch.no_grad():
        for layer, filters in dead.items():
            model[layer].weight[filters] *= faint
            model[layer].bias[filters] = 3.0  # alive, by its looks
        model[3].weight[:, dead[0]] *= 10
    units = find_units(model, images[:1], importance="contribution")
    for layer, filters in dead.items():
        with torch.no_grad():
            constant = model[: layer + 2](images).std((0, 2, 3)) < 1e-6
        assert constant.nonzero().flatten().tolist() == filters
        order = unit_of(units, str(layer)).order
        assert sorted(order[-len(filters) :].tolist()) == filters


def test_a_channel_that_says_the_same_of_all_images_has_no_entropy():
    means = torch.stack(
        [torch.ones(64), torch.arange(64.0), torch.tensor([0.0] * 48 + [1.0] * 16)], 1
    )
    shares = np.array([0.75, 0.25])
    expected = [0.0, np.log(BINS), -(shares * np.log(shares)).sum()]
    np.testing.assert_allclose(histogram_entropy(means), expected, rtol=1e-6)
    assert histogram_entropy(torch.tensor([[1.0], [torch.inf]])).isnan().all()


HEADS, SIZE = 3, 4


def transformer() -> nn.Module:
    encoder = nn.TransformerEncoderLayer(HEADS * SIZE, HEADS, 10, batch_first=True)
    return drawn(nn.Sequential(nn.Linear(5, HEADS * SIZE), encoder, nn.Linear(HEADS * SIZE, 3)))


def by_definition(criterion: str, model: nn.Module, images: list[Tensor]) -> list[float]:
    """The scores of the attention's heads, from the layer's tensors."""
    attention = model[1].self_attn
    thrice = attention.in_proj_weight.detach().view(3, HEADS, SIZE, -1)  # of q, k and v
    filters = thrice.movedim(1, 0).flatten(1)
    out = attention.out_proj.weight.detach().view(-1, HEADS, SIZE).movedim(1, 0).flatten(1)
    with torch.no_grad():
        x = model[0](torch.cat(images))
        q, k, v = functional.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, 2)
        q, k, v = (y.unflatten(2, (HEADS, SIZE)).transpose(1, 2) for y in (q, k, v))
        signal = functional.scaled_dot_product_attention(q, k, v)  # (images, heads, tokens, size)
    columns = attention.out_proj.weight.data.view(-1, HEADS, SIZE)
    found = {
        "l1": lambda h: filters[h].abs().sum(),
        "l2": lambda h: filters[h].norm(),
        "bn-scale": lambda h: filters[h].abs().sum(),  # no BatchNorm: as l1
        "contribution": lambda h: out[h].norm(),
        "geometric-median": lambda h: sum((filters[h] - other).norm() for other in filters),
        "activation": lambda h: signal[:, h].abs().mean((0, 1)).sum(),
        "entropy": lambda h: sum(entropy_of(signal[:, h, :, n].mean(1)) for n in range(SIZE)),
        "taylor": lambda h: abs(gated_losses(model, [columns[:, h]], images)).mean(),
    }[criterion]
    return [float(found(head)) for head in range(HEADS)]


@pytest.mark.parametrize(
    "criterion",
    ["l1", "l2", "bn-scale", "contribution", "geometric-median", "activation", "entropy", "taylor"],
)
def test_heads_of_a_transformer(criterion):
    model, images = transformer(), batches(6, 7, 5)
    units = read_units(model, images[0][:1])
    (number,) = [n for n, unit in enumerate(units) if unit.kind == "heads"]
    scores = score(model, units, criterion, calibration=images, loss=loss_on(images))
    expected = by_definition(criterion, model, images)
    np.testing.assert_allclose(scores[number], expected, rtol=1e-5)
