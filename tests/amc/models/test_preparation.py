"""What networks say of their images, without a connection to anything."""

import socket

import pytest
from torch import nn

from amc.config import ModelConfig
from amc.errors import ConfigError
from amc.models.factory import build_resolved
from amc.models.preparation import has_random_weights, said_by

IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket, "socket", refuse)


@pytest.mark.parametrize(
    ("spec", "arguments", "expected"),
    [
        (
            "timm:vit_tiny_patch16_224",
            {},
            {
                **{"mean": (0.5,) * 3, "std": (0.5,) * 3, "image_size": 224},
                **{"crop_pct": 0.9, "interpolation": "bicubic"},
            },
        ),
        ("timm:resnet10t", {}, IMAGENET | {"image_size": 176, "crop_pct": 0.875}),
        (
            "torchvision:resnet18",
            {},
            IMAGENET | {"image_size": 224, "crop_pct": 224 / 256, "interpolation": "bilinear"},
        ),
        ("torchvision:mobilenet_v2", {}, IMAGENET | {"crop_pct": 224 / 232}),
        (
            "torchvision:efficientnet_v2_s",
            {},
            {"image_size": 384, "crop_pct": 1.0, "interpolation": "bilinear"},
        ),
    ],
)
def test_names_of_libraries_tell_their_preprocessing(spec, arguments, expected):
    if spec.startswith("timm"):
        pytest.importorskip("timm")
    model, config, _ = build_resolved(ModelConfig(spec=spec, arguments=arguments), num_classes=7)
    said = said_by(model, config)
    assert {name: getattr(said, name) for name in expected} == expected
    assert spec.partition(":")[0] in said.by


def test_weights_that_are_named_are_those_that_are_asked():
    one = ModelConfig(spec="torchvision:mobilenet_v2", arguments={"weights": "IMAGENET1K_V1"})
    assert said_by(nn.Identity(), one).crop_pct == 224 / 256
    detector = ModelConfig(spec="torchvision:fasterrcnn_resnet50_fpn")
    assert said_by(nn.Identity(), detector) is None


def test_a_network_of_ones_own_may_say_it():
    own, config = nn.Identity(), ModelConfig(spec="net.py:make")
    assert said_by(own, config) is None
    own.pretrained_cfg = {"mean": [0.1, 0.2], "input_size": (2, 8, 8), "interpolation": "random"}
    said = said_by(own, config)
    assert said.mean == (0.1, 0.2)
    assert (said.std, said.image_size, said.interpolation) == (None, 8, None)
    own.pretrained_cfg = {"std": (0.0, 1.0)}
    with pytest.raises(ConfigError, match=r"net\.py:make: pretrained_cfg: std\.0"):
        said_by(own, config)


@pytest.mark.parametrize(
    ("config", "random"),
    [
        ({"spec": "amc:resnet20"}, True),
        ({"spec": "amc:resnet20", "weights": "w.pth"}, False),
        ({"spec": "torchvision:resnet18"}, True),
        ({"spec": "torchvision:resnet18", "arguments": {"weights": "DEFAULT"}}, False),
        ({"spec": "timm:resnet18", "arguments": {"pretrained": False}}, True),
        ({"spec": "timm:resnet18", "arguments": {"pretrained": True}}, False),
        ({"spec": "net.py:make"}, False),
    ],
)
def test_random_weights_are_known(config, random):
    assert has_random_weights(ModelConfig(**config)) == random
