"""What holds for every criterion, and scores against sums written out by hand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amc.errors import ConfigError
from amc.pruning.find_units import find_units, read_units
from amc.pruning.importance.score import score
from amc.pruning.slicing.slice import slice_model
from amc.registry import IMPORTANCES


class Small(nn.Module):
    """A stream of two groups of channels with two producers, and a depthwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 2, 1)
        self.bn = nn.BatchNorm2d(2)
        self.b = nn.Conv2d(1, 2, 1, bias=False)
        self.depthwise = nn.Conv2d(2, 4, 1, groups=2, bias=False)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.bn(self.a(x)) + self.b(x))
        logits: Tensor = self.head(y.mean((2, 3)))
        return logits


@pytest.fixture
def small() -> nn.Module:
    model = Small().eval()
    with torch.no_grad():
        model.a.weight.copy_(torch.tensor([-3.0, 1.0]).view(2, 1, 1, 1))
        model.a.bias.fill_(100.0)  # a bias is no weight
        model.b.weight.copy_(torch.tensor([4.0, -2.0]).view(2, 1, 1, 1))
        model.bn.weight.copy_(torch.tensor([0.5, -2.0]))
        model.depthwise.weight.fill_(50.0)  # rides along, and neither writes nor reads
        model.head.weight.copy_(torch.tensor([[1.0, 2.0, 0.0, 3.0], [2.0, 0.0, 1.0, -1.0]]))
    return model


@pytest.mark.parametrize(
    ("criterion", "scores"),
    [
        ("l1", [3 + 4, 1 + 2]),
        ("l2", [(9 + 16) ** 0.5, (1 + 4) ** 0.5]),
        # The head reads channels 0 and 1 of group 0 and channels 2 and 3 of group 1.
        ("contribution", [0.5 * (1 + 4 + 4) ** 0.5, 2 * (9 + 1 + 1) ** 0.5]),
        ("bn-scale", [0.5, 2]),
        ("geometric-median", [(3 + 1) + (4 + 2)] * 2),
    ],
)
def test_scores_by_hand(small, criterion, scores):
    units = read_units(small, torch.ones(1, 1, 2, 2))
    (found,) = score(small, units, criterion)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, scores)


NEEDS = {entry.name: entry.traits["needs"] for entry in IMPORTANCES if entry.traits["needs"]}
BY_WEIGHTS = [name for name in IMPORTANCES.names() if name not in (*NEEDS, "random")]
COMPARED = [*BY_WEIGHTS, "activation", "taylor"]


@pytest.mark.parametrize("name", ["resnet20_b", "mobilenet_v3_small", "googlenet"])
def test_scores_move_with_their_channels(subject, name):
    """Groups of a unit that change places in all its tensors change their scores' places.

    (Entropy jumps where rounding moves an image to the next bin.)
    """
    s = subject(name)

    def loss(model):
        yield model(s.inputs).square().sum()

    def scores(model, criterion):
        return score(model, s.units, criterion, calibration=[s.inputs], loss=loss)

    before = {criterion: scores(s.model, criterion) for criterion in COMPARED}
    generator = np.random.default_rng(0)
    for number in (0, len(s.units) // 2, len(s.units) - 1):
        unit = s.units[number]
        order = generator.permutation(unit.width)
        moved = copy.deepcopy(s.model)
        with torch.no_grad():
            for slot in unit.slots:
                tensor = moved.state_dict()[slot.tensor].movedim(slot.dim, 0)
                tensor[slot.index.ravel()] = tensor[slot.index[order].ravel()]
            torch.testing.assert_close(moved(s.inputs), s.model(s.inputs), rtol=1e-3, atol=1e-3)
        for criterion in COMPARED:
            mine = before[criterion]
            assert [x.shape for x in mine] == [(unit.width,) for unit in s.units]
            if criterion in BY_WEIGHTS:
                assert len(np.unique(mine[number])) == unit.width
            after = scores(moved, criterion)[number] / mine[number].max()
            rounding = 1e-6 if criterion in BY_WEIGHTS else 1e-3
            expected = mine[number][order] / mine[number].max()
            np.testing.assert_allclose(after, expected, rtol=1e-6, atol=rounding)


def test_scores_of_a_narrowed_unit_are_those_of_the_kept_groups(subject):
    """Cutting channels of one unit alone leaves its own producers' scores as they were."""
    s = subject("resnet20")
    widths = list(s.units.dense_widths)
    widths[3] //= 2
    small = slice_model(s.model, s.units, widths)
    before = score(s.model, s.units, "l2")[3]
    units = read_units(small, s.inputs)
    after = score(small, units, "l2")[[unit.name for unit in units].index(s.units[3].name)]
    np.testing.assert_array_equal(after, before[s.units[3].kept(widths[3])])


def test_weights_that_are_buffers_do_not_disturb():
    class Bank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("bank", torch.ones(4, 1, 1, 1))
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(nn.functional.conv2d(x, self.bank))
            return result

    model = Bank()
    units = read_units(model, torch.ones(1, 1, 2, 2))
    for criterion in BY_WEIGHTS:
        assert np.isfinite(score(model, units, criterion)[0]).all()
    assert score(model, units, "l1")[0].tolist() == [1, 1, 1, 1]


def test_chance_is_its_seed(small):
    units = read_units(small, torch.ones(1, 1, 2, 2))
    global_state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (score(small, units, "random", seed=seed)[0] for seed in (3, 3, 4))
    assert first.tolist() == again.tolist()
    assert first.tolist() != other.tolist()
    assert (np.random.get_state()[1] == global_state).all()  # noqa: NPY002


@pytest.mark.parametrize("criterion", IMPORTANCES.names())
def test_the_network_is_left_as_it_was(criterion):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Dropout(), nn.ReLU(), nn.Conv2d(6, 4, 3)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
    )
    images = torch.randn(8, 3, 8, 8, generator=generator)
    model.train()
    model[1].eval()  # a frozen BatchNorm inside a network in training
    model[4].weight.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)

    def loss(network):
        network.train()  # as a detector's, which gives losses only so
        yield network(images).square().mean()

    units = read_units(model, images)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    score(model, units, criterion, calibration=[images], loss=loss)
    assert [m.training for m in model.modules()] == [True, True, False, *[True] * 6]
    assert [p.requires_grad for p in model.parameters()] == [*[True] * 4, False, *[True] * 3]
    grads = [p.grad is not None for p in model.parameters()]
    assert grads == [True, *[False] * 7]
    assert bool((model[0].weight.grad == 1).all())
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(not tensor.is_inference() for tensor in after.values())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("criterion", NEEDS)
def test_a_criterion_that_lacks_images_says_what_to_give(small, criterion):
    units = read_units(small, torch.ones(1, 1, 2, 2))
    remedy = rf"importance '{criterion}' .*Task\.{NEEDS[criterion]}\).*contribution"
    with pytest.raises(ConfigError, match=remedy):
        score(small, units, criterion)
    with pytest.raises(ConfigError, match=remedy):
        find_units(small, torch.ones(1, 1, 2, 2), importance=criterion)


@pytest.mark.parametrize(
    ("losses", "words"),
    [
        ([], "yields nothing"),
        ([torch.ones(())], "no gradient"),
        ([float("nan")], "'taylor' of a is not finite.*task's loss"),
    ],
)
def test_a_loss_that_is_none_is_refused(small, losses, words):
    units = read_units(small, torch.ones(1, 1, 2, 2))

    def loss(model):
        for value in losses:
            yield value if isinstance(value, torch.Tensor) else value * model.head.weight.sum()

    with pytest.raises(ConfigError, match=words):
        score(small, units, "taylor", loss=loss)


def test_an_unknown_criterion_is_named_with_the_known_ones(small):
    units = read_units(small, torch.ones(1, 1, 2, 2))
    with pytest.raises(
        ConfigError, match="importance 'hessian' is unknown; choose from contribution, l1"
    ):
        score(small, units, "hessian")
