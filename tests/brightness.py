"""Images whose class is how bright they are, and networks that tell by it: what is made of them
depends on how they are normalised."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from amc.vision.data import ImageData, Split

LEVELS = (40, 100, 160, 220)
"""Mean brightness of each class, of 255."""

SOURCE = """
import torch
from torch import nn


class Net(nn.Sequential):
    pretrained_cfg = None


def make(num_classes=4):
    return Net(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, num_classes),
    )


def told(num_classes=4):
    net = make(num_classes)
    net.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    return net


def few():
    return make(3)


def one():
    return make(1)


def sized():
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4))


def grey():
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


class Pair(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.net, self.form = make(), form

    def forward(self, x):
        logits = self.net(x)
        return {"pair": (logits, x), "named": {"out": logits}, "map": x}[self.form]


def pair():
    return Pair("pair")


def named():
    return Pair("named")


def image():
    return Pair("map")
"""
"""A user's file of networks."""


def images(count: int, seed: int) -> Split:
    """(count, 3, 8, 8), as many of each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(LEVELS)
    noise = torch.randn(count, 3, 8, 8, generator=generator) * 20
    levels = torch.tensor(LEVELS)[labels].view(-1, 1, 1, 1)
    return Split((levels + noise).clamp(0, 255).to(torch.uint8), labels)


def data(mean: float = 0.5, std: float = 0.5, *, count: int = 400) -> ImageData:
    """``count`` images in each split."""
    return ImageData(
        name="brightness",
        classes=("dark", "dim", "light", "bright"),
        train=images(count, 0),
        search_val=images(count, 1),
        test=images(count, 2),
        mean=(mean,) * 3,
        std=(std,) * 3,
        crop_padding=0,
        flip=True,
    )


def net_file(folder: Path) -> Path:
    """:data:`SOURCE` in a file."""
    path = folder / "bright.py"
    path.write_text(SOURCE)
    return path


def trained(model: nn.Module) -> nn.Module:
    """``model``, made for images normalised by .5 and .5."""
    batch = data().train
    inputs: Tensor = data().normalise(batch.images)
    optimizer = torch.optim.Adam(model.parameters(), 0.03)
    model.train()
    for _ in range(40):
        optimizer.zero_grad()
        functional.cross_entropy(model(inputs), batch.labels).backward()
        optimizer.step()
    return model.eval()


def image_folder(folder: Path, train: int = 400, test: int = 80) -> Path:
    """PNG files, as ``imagefolder:`` reads them."""
    for split, count, seed in (("train", train, 0), ("test", test, 2)):
        made = images(count, seed)
        for number, (image, label) in enumerate(zip(made.images, made.labels, strict=True)):
            path = folder / split / f"{label}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return folder
