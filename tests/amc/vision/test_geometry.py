"""Resizing and cropping, against torchvision's own steps."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from amc.config import DataConfig
from amc.vision.geometry import Geometry

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 37, 3), dtype=np.uint8)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize(
    ("size", "crop_pct", "resized"), [(28, 0.875, 32), (30, 0.9, 33), (64, 1, 64)]
)
def test_it_is_torchvisions_resize_and_crop(
    interpolation: str, size: int, crop_pct: float, resized: int
) -> None:
    config = DataConfig(image_size=size, crop_pct=crop_pct, interpolation=interpolation)
    geometry = Geometry.of(config)
    steps = v2.Compose(
        [
            v2.Resize(resized, v2.InterpolationMode(interpolation)),
            v2.CenterCrop(size),
            v2.PILToTensor(),
        ]
    )
    image = Image.fromarray(PIXELS)
    expected = steps(image)
    assert expected.shape == (3, size, size)
    assert torch.equal(geometry(image), expected)
    assert torch.equal(geometry(torch.from_numpy(PIXELS).permute(2, 0, 1)), expected)


def test_every_crop_pct_of_torchvision_gives_its_size_back() -> None:
    for size in range(16, 400):
        for resized in range(size, 2 * size, 7):
            assert Geometry(size, size / resized).resized == resized


def test_without_a_size_images_stay_as_they_are() -> None:
    image = torch.from_numpy(PIXELS).permute(2, 0, 1)
    assert torch.equal(Geometry.of(DataConfig())(image), image)
    assert torch.equal(Geometry()(Image.fromarray(PIXELS)), image)
    assert torch.equal(Geometry(37)(image[:, :37]), image[:, :37])
    assert [Geometry(8, pct).keeps(torch.Size((8, 8))) for pct in (1, 0.5)] == [True, False]
    assert not Geometry(8).keeps(torch.Size((8, 9)))
