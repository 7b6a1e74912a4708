"""Seeded images of classes that a small network learns to 80 to 99%, of three kinds.

- ``gratings``: stripes whose direction is the class; frequency, phase and colours vary;
- ``shapes``: a disc, square, ring, cross, ... anywhere, of any size and colour;
- ``blobs``: coloured spots in places that are the class's, each moved a little.

Noise lies over all of them: the more, the more images there are to learn from.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from amc.vision.data import ImageData, Split

SIDE = 32
CLASSES = 6
SIZES = (200, 600, 2000)
"""Training images."""
HELD_OUT = 0.1
"""Search-val images for each training image: as a user has them by default."""
TEST = 1000
NOISE = {
    "gratings": (0.25, 0.3, 0.35),
    "shapes": (0.25, 0.35, 0.4),
    "blobs": (0.3, 0.35, 0.35),
}
"""Standard deviation of the noise, for each of :data:`SIZES`."""

Draw = Callable[[Tensor, torch.Generator], Tensor]
"""Of labels (N,): images (N, 3, SIDE, SIDE) without noise, around 0.5."""


def generated(kind: str, images: int, seed: int) -> ImageData:
    """``images`` (of :data:`SIZES`) to train on, a tenth to choose by, and :data:`TEST`."""
    generator = torch.Generator().manual_seed(seed)
    draw, noise = KINDS[kind](generator), NOISE[kind][SIZES.index(images)]

    def split(count: int) -> Split:
        labels = torch.arange(count) % CLASSES
        clean = draw(labels, generator)
        noisy = clean + noise * torch.randn(clean.shape, generator=generator)
        return Split((255 * noisy).clamp_(0, 255).byte(), labels)

    return ImageData(
        name=kind,
        classes=tuple(f"{kind}-{label}" for label in range(CLASSES)),
        train=split(images),
        search_val=split(round(HELD_OUT * images)),
        test=split(TEST),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        crop_padding=2,
        flip=kind == "shapes",  # a mirrored grating is of another class
    )


def _grid() -> tuple[Tensor, Tensor]:
    """Coordinates (1, SIDE, SIDE) from -1 to 1, of rows and of columns."""
    line = torch.linspace(-1, 1, SIDE)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    return rows[None], columns[None]


def _uniform(low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
    """(count, 1, 1)."""
    return low + (high - low) * torch.rand(count, 1, 1, generator=generator)


def _colours(count: int, generator: torch.Generator) -> Tensor:
    """(count, 3, 1, 1) in -1 to 1."""
    return 2 * torch.rand(count, 3, 1, 1, generator=generator) - 1


def _gratings(_: torch.Generator) -> Draw:
    def draw(labels: Tensor, generator: torch.Generator) -> Tensor:
        rows, columns = _grid()
        count = len(labels)
        tilt = 0.1 * torch.randn(count, 1, 1, generator=generator)
        angle = math.pi * labels.view(-1, 1, 1) / CLASSES + tilt
        along = rows * angle.sin() + columns * angle.cos()
        frequency = math.pi * _uniform(2.5, 4.5, count, generator)
        phase = _uniform(0, 2 * math.pi, count, generator)
        wave = (frequency * along + phase).sin().unsqueeze(1)
        return 0.5 + 0.25 * wave * _colours(count, generator)

    return draw


def _shapes(_: torch.Generator) -> Draw:
    def draw(labels: Tensor, generator: torch.Generator) -> Tensor:
        rows, columns = _grid()
        count = len(labels)
        size = _uniform(0.5, 0.8, count, generator)
        y = (rows - _uniform(-0.15, 0.15, count, generator)) / size
        x = (columns - _uniform(-0.15, 0.15, count, generator)) / size
        radius, box = (x**2 + y**2).sqrt(), torch.maximum(x.abs(), y.abs())
        inside = torch.stack(
            [
                radius < 1,
                box < 0.9,
                (radius < 1) & (radius > 0.55),
                (box < 1) & (torch.minimum(x.abs(), y.abs()) < 0.3),
                (y.abs() < 0.35) & (x.abs() < 1),
                (x.abs() + y.abs()) < 1,
            ]
        )
        chosen = inside[labels, torch.arange(count)].unsqueeze(1).float()
        background, colour = _colours(count, generator), _colours(count, generator)
        return 0.3 + 0.1 * background + chosen * (0.3 + 0.1 * colour)  # always brighter

    return draw


def _blobs(prototype: torch.Generator) -> Draw:
    spots = 5
    places = 1.4 * torch.rand(CLASSES, spots, 2, generator=prototype) - 0.7
    colours = 2 * torch.rand(CLASSES, spots, 3, generator=prototype) - 1

    def draw(labels: Tensor, generator: torch.Generator) -> Tensor:
        rows, columns = _grid()
        count = len(labels)
        images = torch.full((count, 3, SIDE, SIDE), 0.5)
        for spot in range(spots):
            moved = places[labels, spot] + 0.15 * torch.randn(count, 2, generator=generator)
            y, x = moved[:, 0].view(-1, 1, 1), moved[:, 1].view(-1, 1, 1)
            light = (-((rows - y) ** 2 + (columns - x) ** 2) / 0.08).exp().unsqueeze(1)
            strength = _uniform(0.1, 0.5, count, generator).unsqueeze(1)
            images += strength * light * colours[labels, spot].view(-1, 3, 1, 1)
        return images

    return draw


KINDS: dict[str, Callable[[torch.Generator], Draw]] = {
    "gratings": _gratings,
    "shapes": _shapes,
    "blobs": _blobs,
}
"""What draws images, made of a generator that draws what a class is."""
