"""Ends of blocks where the architecture has them, and pairs of equal size."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer, swin_t

from amc.errors import ConfigError, ModelError
from amc.models.architectures import NETWORKS
from amc.training.distillation.ends import find_ends
from amc.training.distillation.matching import Capture, matched_ends

CIFAR = torch.zeros(2, 3, 32, 32)


class Bottlenecks(nn.Module):
    """A stem and two stages of one block, whose first convolution still has the old size; then an
    attention pooling, whose weights are a map larger than the last."""

    def __init__(self, inner: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.one = self.block(4, 5, inner)
        self.two = self.block(5, 6, inner)
        self.again = nn.ReLU()
        self.weights = nn.Identity()
        self.linear = nn.Linear(6, 10)

    @staticmethod
    def block(inputs: int, outputs: int, inner: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(inputs, inner, 1), nn.Conv2d(inner, outputs, 3, stride=2, padding=1)
        )

    def forward(self, images: Tensor) -> Tensor:
        maps = self.again(self.two(self.again(self.one(self.stem(images)))))
        tokens = maps.flatten(2).mT
        weights = self.weights((tokens @ tokens.mT).unsqueeze(1).softmax(3))
        logits: Tensor = self.linear((weights.squeeze(1) @ tokens).mean(1))
        return logits


def vit(layers: int, width: int = 8) -> nn.Module:
    return VisionTransformer(
        image_size=32, patch_size=8, num_layers=layers, num_heads=2, hidden_dim=width, mlp_dim=16
    )


def test_stages_of_convolutions_end_where_the_size_changes() -> None:
    found = {
        name: [(end.name, *end.positions) for end in find_ends(NETWORKS[name](), CIFAR)]
        for name in ("resnet20", "mobilenet_v2", "vgg11_bn")
    }
    assert found["resnet20"] == [("layer1", 32, 32), ("layer2", 16, 16), ("layer3", 8, 8)]
    # Not the expansion in the first block of the next stage (features.4.conv.0), which comes later.
    assert found["mobilenet_v2"] == [
        ("features.3", 32, 32),
        ("features.6", 16, 16),
        ("features.13", 8, 8),
        ("features", 4, 4),
    ]
    assert [size for _, size, _ in found["vgg11_bn"]] == [32, 16, 8, 4, 2]
    ends = find_ends(Bottlenecks(), CIFAR)
    assert [end.name for end in ends] == ["stem", "one", "two"]


def test_channels_may_be_last() -> None:
    ends = find_ends(swin_t(), torch.zeros(2, 3, 64, 64))
    # From 64 pixels the stages have 16, 8, 4 and 2; the last is permuted before it is pooled.
    assert [(end.positions, end.channels) for end in ends] == [
        ((16, 16), 3),
        ((8, 8), 3),
        ((4, 4), 3),
        ((2, 2), 1),
    ]
    assert ends[0].maps(torch.zeros(2, 16, 16, 96)).shape == (2, 96, 16, 16)


def test_blocks_of_transformers_are_matched_evenly() -> None:
    mine, wanted = matched_ends(vit(3), vit(12, width=16), CIFAR)
    layer = "encoder.layers.encoder_layer_"
    assert [end.name for end in mine] == [f"{layer}{i}" for i in (0, 1, 2)]
    assert [end.name for end in wanted] == [f"{layer}{i}" for i in (3, 7, 11)]
    assert len(matched_ends(vit(12), vit(6), CIFAR)[0]) == 4
    assert mine[0].maps(torch.zeros(2, 17, 8)).shape == (2, 8, 17, 1)


def test_ends_of_equal_size_are_partners() -> None:
    mine, wanted = matched_ends(NETWORKS["mobilenet_v2"](), NETWORKS["resnet20"](), CIFAR)
    assert [end.name for end in mine] == ["features.3", "features.6", "features.13"]
    assert [end.name for end in wanted] == ["layer1", "layer2", "layer3"]


def test_networks_without_partners_are_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    with pytest.raises(ConfigError, match=r"end at 17x1 and the teacher's at 32x32, 16x16, 8x8;"):
        matched_ends(vit(2), NETWORKS["resnet20"](), CIFAR)
    with pytest.raises(ConfigError, match="the teacher's at no feature maps; take kd, dkd or dist"):
        matched_ends(Bottlenecks(), flat, CIFAR)
    with pytest.raises(ModelError, match=r"fails on images of shape \(2, 1, 32, 32\)"):
        find_ends(Bottlenecks(), CIFAR[:, :1])


def test_finding_leaves_no_trace() -> None:
    model = NETWORKS["resnet20"]().train()
    before = copy.deepcopy(model.state_dict())
    find_ends(model, torch.randn(2, 3, 32, 32))
    assert all(m.training and not m._forward_hooks for m in model.modules())
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(before[name], x) for name, x in model.state_dict().items())


def test_only_the_network_itself_is_captured() -> None:
    model = Bottlenecks()
    capture = Capture(find_ends(model, CIFAR))
    images = torch.randn(2, 3, 32, 32)
    expected = [model.stem(images)]
    expected.append(model.one(expected[0]))
    model(images)
    copy.deepcopy(model)(torch.zeros_like(images))  # would overwrite
    taken = capture.take()
    torch.testing.assert_close(taken[:2], expected)
    capture.close()
    assert not any(m._forward_hooks for m in model.modules())
