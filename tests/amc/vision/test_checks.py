"""What is said before a search begins, of networks that see images as they were trained, or not."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from amc.config import DataConfig, ModelConfig
from amc.errors import EvaluationError
from amc.models.factory import import_file
from amc.vision.checks import check_fit, check_task
from amc.vision.data import Split
from amc.vision.inference import accuracy
from amc.vision.task import image_task
from tests import brightness

OWN = ModelConfig(spec="net.py:make", weights="w.pth")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    file = import_file(brightness.net_file(tmp_path_factory.mktemp("net")))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return brightness.trained(file.make())


def said(network, images, config=OWN):
    """The line of the accuracy, and the warnings."""
    dense = accuracy(network, images, images.search_val, bf16=False)
    outputs = check_fit(network, "net", images)
    line, *warnings = check_task(
        network, images, config, dense, len(images.search_val), outputs, bf16=False
    )
    assert all(text.startswith("warning  ") for text in warnings)
    assert line.startswith(f"dense  accuracy {dense:.2%} on {len(images.search_val)} search-val")
    return line, warnings


def test_a_network_that_sees_what_it_knows_is_not_warned_of(network):
    line, warnings = said(network, brightness.data())
    assert warnings == []
    assert line.endswith("100.00% on 250 test images")


@pytest.mark.parametrize(("mean", "std"), [(0.449, 0.226), (0.0, 1.0), (0.0, 1 / 255)])
def test_the_normalisation_that_it_was_trained_with_is_named(network, mean, std):
    images = brightness.data(mean, std)
    right = accuracy(network, brightness.data(), images.search_val, bf16=False)
    now = accuracy(network, images, images.search_val, bf16=False)
    assert now < right - 0.1  # otherwise there is nothing to find
    _, warnings = said(network, images)
    (found,) = [text for text in warnings if "--mean" in text]
    assert "--mean 0.5,0.5,0.5 --std 0.5,0.5,0.5 " in found
    assert f"{right:.1%} instead of {now:.1%} on 400 search-val images" in found


def test_chance_is_said(network):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.eye(4)[0].repeat(len(x), 1)

    _, warnings = said(Constant(), brightness.data())
    (found,) = warnings
    assert "no better than chance" in found
    assert "25.0%" in found
    # Three standard errors of 400 images at 1/4 are 6.5 points.
    for share, chance in ((0.31, True), (0.32, False)):
        lines = check_task(network, brightness.data(), OWN, share, 400, 4, bf16=False)
        assert any("chance" in line for line in lines) == chance


def test_random_weights_are_said_and_not_tried():
    class Untouchable(nn.Module):
        def forward(self, _):
            raise AssertionError("tried")

    config = ModelConfig(spec="amc:resnet20")
    lines = check_task(Untouchable(), brightness.data(), config, 0.25, 400, 4)
    assert len(lines) == 2
    assert "without --weights the weights of amc:resnet20 are random" in lines[1]


def test_search_val_that_it_was_trained_on_is_said(network):
    images, generator = brightness.data(), torch.Generator().manual_seed(0)
    for share, told in ((0.0, False), (0.01, False), (0.1, True)):
        labels = images.test.labels.clone()
        wrong = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
        labels[wrong] = (labels[wrong] + 1) % 4
        test = Split(images.test.images, labels)
        line, warnings = said(network, replace(images, test=test))
        assert [("trained on the search-val images" in text) for text in warnings] == [True] * told
        # A difference is looked at on more images.
        assert line.endswith("on 400 test images" if told else "on 250 test images")


def test_few_images_and_more_outputs_are_said(network):
    _, warnings = said(network, brightness.data(count=100))
    (found,) = warnings
    assert "search-val has 100 images, so that one of them is 1.0%" in found
    images = brightness.data()
    wide = nn.Sequential(network, nn.ConstantPad1d((0, 996), -1e3))
    _, warnings = said(wide, images)
    assert "1,000 outputs, brightness 4 classes" in warnings[0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("few", "has 3 outputs, but the labels of .* go up to 3 .4 classes."),
        ("one", "has one output"),
        ("pair", "returns a tuple; image classification needs logits"),
        ("named", "returns a dict"),
        ("image", r"returns \(2, 3, 8, 8\) for 2 images"),
        ("sized", "3x8x8 .channels x height x width.: .*--image-size"),
        ("grey", "3x8x8 .*input.* to have 1 channels"),
    ],
)
def test_a_network_for_other_images_is_one_line(tmp_path, name, words):
    spec = f"{brightness.net_file(tmp_path)}:{name}"
    folder = brightness.image_folder(tmp_path / "images", 40, 8)
    with pytest.raises(EvaluationError, match=words) as caught:
        image_task(spec, DataConfig(spec=f"imagefolder:{folder}"), progress=False)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(spec)
