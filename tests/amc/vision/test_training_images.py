"""Which images rank channels."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from amc.config import DataConfig, EvaluateConfig
from amc.vision.data import Split
from amc.vision.sources import load_data
from amc.vision.task import image_task
from amc.vision.training_images import BATCH, IMAGES, TrainingImages


@pytest.fixture(scope="module")
def data():
    return load_data(DataConfig(spec="digits"), progress=False)


def test_they_are_training_images_and_the_same_each_time(data):
    plain = replace(data, crop_padding=0, flip=False)
    images = TrainingImages(plain, seed=0)
    known = {
        image.numpy().tobytes(): int(label)
        for image, label in zip(data.normalise(data.train.images), data.train.labels, strict=True)
    }
    seen = [
        (image.numpy().tobytes(), int(label))
        for inputs, labels in images.labelled()
        for image, label in zip(inputs, labels, strict=True)
    ]
    assert len(seen) == IMAGES
    assert all(known[image] == label for image, label in seen)
    counts = torch.tensor([label for _, label in seen]).bincount()
    dense = data.train.labels.bincount() * IMAGES / len(data.train)
    assert bool((counts - dense).abs().max() <= 1)  # every class in proportion
    first = [x.shape[0] for x in images]
    assert set(first) == {BATCH}
    assert len({label for _, label in seen[:10]}) > 4  # and mixed
    assert all(torch.equal(a, b) for a, b in zip(images, images, strict=True))
    other = next(iter(TrainingImages(plain, seed=1)))
    assert not torch.equal(other, next(iter(images)))


def test_held_out_images_have_no_part_in_a_task(data):
    def shown(held_out):
        ruined = Split(torch.zeros_like(held_out.images), held_out.labels)
        task = image_task("amc:smallcnn", replace(data, search_val=ruined, test=ruined), SETTINGS)
        return [*task.calibration]

    task = image_task("amc:smallcnn", data, SETTINGS)
    pairs = zip(task.calibration, shown(data.search_val), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


SETTINGS = EvaluateConfig(images=20, calibration_images=0)


def test_the_loss_is_the_cross_entropy_of_these_images(data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    images = TrainingImages(data, seed=0)
    with torch.no_grad():
        losses = [float(loss) for loss in images.losses(model)]
        expected = [float(functional.cross_entropy(model(x), y)) for x, y in images.labelled()]
    assert losses == expected
    assert len(losses) == IMAGES // BATCH
