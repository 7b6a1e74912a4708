"""What a user should know before a search begins: whether network and images belong together.

All of it runs the dense network on a few hundred images, which takes about as long as scoring one
plan.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from amc.config import ModelConfig
from amc.errors import AMCError, EvaluationError
from amc.models.preparation import has_random_weights
from amc.modules.completing import initialise_lazy_
from amc.utils.options import with_commas
from amc.vision.data import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageData,
    Images,
    Split,
    stratified_indices,
)
from amc.vision.inference import recognised
from amc.vision.sources.cifar10 import MEAN as CIFAR10_MEAN
from amc.vision.sources.cifar10 import STD as CIFAR10_STD

_TRIED, _FIRST = 500, 200
"""Search-val images on which other normalisations are tried, and those on which each must be
better to be tried on all."""
_TESTED, _TESTED_FIRST = 1000, 250
"""Test images, where the first ones differ from search-val, and otherwise."""
_FEW = 200
"""Search-val images, below which a single one counts too much."""
_POINTS = 0.02
"""The difference of two accuracies that is worth a warning."""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and std of each channel."""


def check_fit(model: nn.Module, spec: str, images: ImageData, device: str = "cpu") -> int:
    """How many outputs ``model`` has for an image.

    Raises :class:`EvaluationError` where it cannot take the images, where it returns anything but
    logits (N, classes), and where there are labels beyond its outputs.
    """
    example = images.example(min(2, len(images.train))).to(device)
    shape = "x".join(map(str, example.shape[1:]))
    try:
        initialise_lazy_(model, lambda: model(example.to("cpu")))
        with torch.inference_mode():
            logits = model.to(device).eval()(example)
    except (AMCError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever a user's network raises
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EvaluationError(
            f"{spec} cannot take the images, {shape} (channels x height x width): {first}; give "
            "images of the size and the channels that it is made for (--image-size resizes them)"
        ) from error
    wanted = "image classification needs logits (images, classes)"
    if not isinstance(logits, Tensor):
        raise EvaluationError(
            f"{spec} returns a {type(logits).__name__}; {wanted}: name a function whose network "
            "returns that tensor alone, or describe the task in Python (amc.Task)"
        )
    found = tuple(logits.shape)
    if logits.dim() != 2 or len(logits) != len(example):
        raise EvaluationError(f"{spec} returns {found} for {len(example)} images; {wanted}")
    if found[1] == 1:
        raise EvaluationError(
            f"{spec} has one output; {wanted}: give it one for each class, two where it says yes "
            "or no"
        )
    splits = (images.train, images.search_val, images.test)
    most = max(int(split.labels.max()) for split in splits if len(split))
    if most >= found[1]:
        raise EvaluationError(
            f"{spec} has {found[1]} outputs, but the labels of {images.name} go up to {most} "
            f"({len(images.classes)} classes): give data of the network's classes, or a network "
            "and weights for these"
        )
    return found[1]


def dense_line(accuracy: float, count: int, tested: tuple[float, int] | None = None) -> str:
    """``dense  accuracy 91.20% on 1,000 search-val images, ...``."""
    line = f"dense  accuracy {accuracy:.2%} on {count:,} search-val images"
    return line + (f", {tested[0]:.2%} on {tested[1]:,} test images" if tested else "")


def check_task(
    model: nn.Module,
    images: ImageData,
    config: ModelConfig,
    accuracy: float,
    count: int,
    outputs: int,
    *,
    seed: int = 0,
    bf16: bool | None = None,
    device: str = "cpu",
) -> tuple[str, ...]:
    """How good the dense network is, and a warning for everything that does not look right.

    ``accuracy`` is its own on ``count`` search-val images, ``outputs`` what :func:`check_fit`
    found. ``seed`` draws the images that are looked at.
    """
    warnings = []
    if outputs > len(images.classes):
        warnings.append(
            f"the network has {outputs:,} outputs, {images.name} {len(images.classes)} classes: "
            f"they are taken for the first ones ({images.classes[0]} for output 0)"
        )
    few = len(images.search_val)
    if few < _FEW:
        warnings.append(
            f"search-val has {few} images, so that one of them is {1 / few:.1%} of a plan's "
            "accuracy; --search-val 0.3 holds out more"
        )
    if has_random_weights(config):
        warnings.insert(0, _RANDOM.format(config.spec))
        return (dense_line(accuracy, count), *(f"warning  {text}" for text in warnings))
    trial = _Trial(model, images, seed, bf16, device)
    warnings += _at_chance(accuracy, count, images.search_val.labels, config)
    warnings += _better_normalised(trial)
    tested = _tested(trial, accuracy, count)
    warnings += _seen_before(accuracy, count, *tested)
    return (dense_line(accuracy, count, tested), *(f"warning  {text}" for text in warnings))


_RANDOM = (
    "without --weights the weights of {} are random: what a plan is worth for them says nothing "
    "about a trained network"
)


def _at_chance(accuracy: float, count: int, labels: Tensor, config: ModelConfig) -> list[str]:
    """By a binomial test, at three standard errors, against naming the most frequent class."""
    chance = labels.bincount().max().item() / len(labels)
    if chance == 1 or accuracy > chance + 3 * math.sqrt(chance * (1 - chance) / count):
        return []
    weights = "--weights" if config.weights is None else f"--weights {config.weights}"
    return [
        f"the dense network's accuracy, {accuracy:.1%}, is no better than chance (the most "
        f"frequent class is {chance:.1%} of the images): check {weights}, the preprocessing and "
        "the order of the classes"
    ]


def _better_normalised(trial: _Trial) -> list[str]:
    """Another common normalisation by which more images are recognised, beyond noise."""
    images, own = trial.images, (trial.images.mean, trial.images.std)
    some = trial.some(images.search_val, _TRIED)
    first = trial.some(some, _FIRST)
    right, right_first = trial.right(some), trial.right(first)
    best, found = _POINTS, []
    for name, other in _normalisations(len(images.mean)):
        if other == own or trial.right(first, other).sum() <= right_first.sum():
            continue
        now = trial.right(some, other)
        difference = now - right
        gain, error = difference.mean().item(), difference.std().item() / math.sqrt(len(right))
        if gain > max(best, 2 * error):
            best = gain
            mean, std = (with_commas(values) for values in other)
            found = [
                f"--mean {mean} --std {std} ({name}) gives the dense network "
                f"{now.mean():.1%} instead of {right.mean():.1%} on {len(right)} search-val "
                "images: normalise images as it was trained"
            ]
    return found


def _normalisations(channels: int) -> Iterator[tuple[str, Normalisation]]:
    """The usual ones, by name."""
    if channels == 3:
        yield "ImageNet's", (IMAGENET_MEAN, IMAGENET_STD)
        yield "CIFAR-10's", (CIFAR10_MEAN, CIFAR10_STD)
    if channels == 1:
        yield "MNIST's", ((0.1307,), (0.3081,))
    for name, mean, std in (
        ("values from -1 to 1", 0.5, 0.5),
        ("values from 0 to 1", 0.0, 1.0),
        ("values from 0 to 255", 0.0, 0.00392157),
    ):
        yield name, ((mean,) * channels, (std,) * channels)


def _tested(trial: _Trial, accuracy: float, count: int) -> tuple[float, int]:
    """The accuracy on some test images, and how many they are."""
    test = trial.images.test
    right = trial.right(trial.some(test, _TESTED_FIRST))
    tested = right.mean().item(), len(right)
    if abs(accuracy - tested[0]) > 2 * _error(accuracy, count, *tested):
        right = trial.right(trial.some(test, _TESTED))
        tested = right.mean().item(), len(right)
    return tested


def _seen_before(accuracy: float, count: int, test: float, tested: int) -> list[str]:
    if accuracy - test <= max(_POINTS, 3 * _error(accuracy, count, test, tested)):
        return []
    return [
        f"the dense network is far better on search-val ({accuracy:.1%}) than on test "
        f"({test:.1%}): it was probably trained on the search-val images, on which plans then look "
        "better than they are; name others that it has not seen (--search-val FILE or FOLDER)"
    ]


def _error(first: float, count: int, second: float, other_count: int) -> float:
    """Standard error of the difference of two accuracies on different images."""
    return math.sqrt(first * (1 - first) / count + second * (1 - second) / other_count)


@dataclass(frozen=True, eq=False)
class _Trial:
    """The dense network, tried on some images."""

    model: nn.Module
    images: ImageData
    seed: int
    bf16: bool | None
    device: str

    def some(self, split: Images, count: int) -> Split:
        """At most ``count`` of its images, every class in proportion: the same ones each time."""
        generator = torch.Generator().manual_seed(self.seed)
        return split.take(stratified_indices(split.labels, min(count, len(split)), generator))

    def right(self, split: Split, normalisation: Normalisation | None = None) -> Tensor:
        """1 for each image that is recognised, 0 for the others: (N,), in float64."""
        mean, std = normalisation or (self.images.mean, self.images.std)
        prepared = replace(self.images, mean=mean, std=std)
        found = recognised(self.model, prepared, split, bf16=self.bf16, device=self.device)
        return found.double()
