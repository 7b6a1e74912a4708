"""A catalogue of network families in sizes that tests can afford, and what must be found in each.

Each network is built with its own seed, made lively, and searched for units once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import Conv2d
from torchvision.models import densenet, detection, mobilenetv3, regnet, resnet, segmentation
from torchvision.models import efficientnet as efficientnets
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.googlenet import Inception
from torchvision.models.inception import InceptionA
from torchvision.models.maxvit import MaxVit
from torchvision.models.shufflenetv2 import ShuffleNetV2
from torchvision.models.squeezenet import SqueezeNet
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    SwinTransformer,
    SwinTransformerBlockV2,
)
from torchvision.models.vision_transformer import VisionTransformer

from amc.config import ModelConfig
from amc.models.factory import build_model
from amc.pruning.find_units import find_units
from amc.pruning.slicing.lively import enliven_
from amc.tracing.inputs import tensors_of
from amc.tracing.units import Units
from tests import networks

Inputs = tuple[Any, ...]


def images(side: int, channels: int = 3, rank: int = 2) -> Callable[[torch.Generator], Inputs]:
    """Two images; of another rank: sequences, or volumes."""
    shape = (2, channels, *[side] * rank)
    return lambda generator: (torch.randn(shape, generator=generator),)


def sentences(generator: torch.Generator) -> Inputs:
    """The words of two sentences, and which of them are padding."""
    words = torch.randint(0, 20, (2, 6), generator=generator)
    return words, torch.tensor([[False] * 6, [False] * 4 + [True] * 2])


def one_photo(generator: torch.Generator) -> Inputs:
    """A list of one image, as torchvision's detectors take it."""
    return ([torch.rand(3, 64, 64, generator=generator)],)


SMALL_IMAGES = images(32)


@dataclass(frozen=True)
class Family:
    """How to build a network and inputs for it, and what must be found in it."""

    build: Callable[[], nn.Module]
    units: int
    """How many; where they come from is in the comment beside."""
    frozen: Mapping[str, int] = field(default_factory=lambda: {"network output": 7})
    """Channels that are left alone, by the beginning of the reason."""
    inputs: Callable[[torch.Generator], Inputs] = SMALL_IMAGES


@dataclass(frozen=True, eq=False)
class Subject:
    """A network through which a signal flows, inputs for it, other inputs, and its units."""

    model: nn.Module
    inputs: Inputs
    others: Inputs
    units: Units

    def signal(self) -> float:
        """How far apart the outputs of two inputs are, relative to the largest output.

        More than that no mistake inside the network can show.
        """
        with torch.no_grad():
            ours = tensors_of(self.model(*self.inputs))
            theirs = tensors_of(self.model(*self.others))
        pairs = list(zip(ours, theirs, strict=True))
        if any(a.shape != b.shape for a, b in pairs):
            return 1.0
        return min(float((a - b).abs().max() / a.abs().max()) for a, b in pairs if a.numel())


@cache
def subject(name: str) -> Subject:
    """A network of one of :data:`FAMILIES`; nothing may change it."""
    model, inputs, others = lively(name)
    return Subject(model, inputs, others, find_units(model, inputs))


def lively(name: str) -> tuple[nn.Module, Inputs, Inputs]:
    """A new network in evaluation mode, through which a signal flows, and two inputs for it."""
    family, generator = FAMILIES[name], torch.Generator().manual_seed(1)
    with torch.random.fork_rng():
        torch.manual_seed(0)  # initialisation draws from the global generator
        model = family.build().eval()
    batches = [family.inputs(generator) for _ in range(8)]
    many = [
        torch.cat(parts) if isinstance(parts[0], Tensor) else parts[0]
        for parts in zip(*batches, strict=True)
    ]
    enliven_(model, tuple(many), generator)
    return model, batches[0], batches[1]


def bert() -> nn.Module:
    """Hugging Face's BertModel: two layers of three heads."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=20,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=10,
        max_position_embeddings=8,
    )
    return transformers.BertModel(config)  # type: ignore[no-any-return]


def gpt2() -> nn.Module:
    """Hugging Face's GPT2Model: causal attention; its layers hold transposed matrices."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=8, n_embd=12, n_layer=2, n_head=3, n_inner=10, use_cache=False
    )
    return Words(transformers.GPT2Model(config))


class Words(nn.Module):
    """Gives its model the words alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, words: Tensor, _padding: Tensor) -> Any:
        return self.model(words)


def swin(**options: Any) -> nn.Module:
    """Windows of 3 on 10 and on 5 positions: padded both times, shifted in every second block."""
    return SwinTransformer(*([2, 2], 8, [2, 2], [2, 4], [3, 3], 2.0), num_classes=7, **options)


def small_mobilenet_v3() -> nn.Module:
    make = partial(mobilenetv3.InvertedResidualConfig, dilation=1, width_mult=0.5)
    setting = [
        make(16, 3, 16, 16, True, "RE", 2),
        make(16, 3, 40, 24, False, "RE", 2),
        make(24, 5, 48, 24, True, "HS", 1),
    ]
    return mobilenetv3.MobileNetV3(setting, 20, num_classes=7)


def small_efficientnet() -> nn.Module:
    setting = [
        efficientnets.FusedMBConvConfig(2, 3, 2, 8, 8, 2),
        efficientnets.MBConvConfig(3, 3, 2, 8, 12, 2),
    ]
    return efficientnets.EfficientNet(setting, 0.1, num_classes=7, last_channel=20)


def inceptions() -> nn.Module:
    return nn.Sequential(
        networks.block(3, 8),
        Inception(8, 4, 5, 6, 2, 4, 3),
        InceptionA(17, 4),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(228, 7)),
    )


def small_resnet(kind: type[nn.Module], **options: Any) -> nn.Module:
    return resnet.ResNet(kind, [1, 1, 1, 1], num_classes=7, **options)


def lraspp() -> nn.Module:
    """Segmentation from a low and a high feature map of a backbone that gives a dictionary."""
    features = IntermediateLayerGetter(small_mobilenet_v3().features, {"1": "low", "4": "high"})
    return segmentation.LRASPP(features, 8, 96, 7, inter_channels=10)


class Pyramid(nn.Module):
    """A detector's backbone of two convolutions, with features of one size."""

    out_channels = 8

    def __init__(self) -> None:
        super().__init__()
        self.body, self.top = networks.block(3, 6, 2), networks.block(6, 8, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.top(self.body(x))
        return out


def faster_rcnn() -> nn.Module:
    anchors = detection.rpn.AnchorGenerator(((16, 32),), ((1.0,),))
    return detection.FasterRCNN(
        Pyramid(), 3, min_size=64, max_size=64, rpn_anchor_generator=anchors
    )


def retinanet() -> nn.Module:
    anchors = detection.rpn.AnchorGenerator(((16, 32),), ((1.0,),))
    return detection.RetinaNet(Pyramid(), 3, min_size=64, max_size=64, anchor_generator=anchors)


def from_timm(
    name: str,
    units: int,
    frozen: Mapping[str, int] | None = None,
    inputs: Callable[[torch.Generator], Inputs] = SMALL_IMAGES,
    **options: Any,
) -> Family:
    build = partial(timm.create_model, name, num_classes=7, **options)
    return Family(build, units, {"network output": 7} | dict(frozen or {}), inputs)


FAMILIES: dict[str, Family] = {
    # A stream and an inner convolution a stage; the stem is in the first stream.
    "resnet": Family(lambda: small_resnet(resnet.BasicBlock), 8),
    # The stem, and in each of 4 stages two grouped convolutions' channels and a stream.
    "resnext": Family(lambda: small_resnet(resnet.Bottleneck, groups=4, width_per_group=4), 13),
    # 9 inner convolutions, the stream of the first stage, what is padded on either side of the
    # other two.
    "resnet20_a": Family(
        lambda: build_model(ModelConfig(spec="amc:resnet20")), 14, {"network output": 10}
    ),
    # The stem, conv5; the stages of one block: a stream, an inner one. Stage 3 has a second inner.
    "shufflenet": Family(lambda: ShuffleNetV2([1, 2, 1], [8, 12, 16, 24, 20], 7), 9),
    # A gate's inner layer (2), expansions (2), streams (2), block 1's output, last two layers.
    "mobilenet_v3": Family(small_mobilenet_v3, 9),
    # Stem, 2 fused (1 inner, 1 stream) and 2 plain blocks (2 expansions, 2 gates, 1 stream), last.
    "efficientnet": Family(small_efficientnet, 10),
    # The stem, and three convolutions in each of 8 fire modules.
    "squeezenet": Family(lambda: SqueezeNet("1_1", 7), 25),
    # The stream; heads and a hidden layer in each of 2 blocks.
    "vit": Family(
        lambda: VisionTransformer(16, 4, 2, 3, 12, 10, num_classes=7), 5, inputs=images(16)
    ),
    # In each of 2 stages a stream; heads and a hidden layer in each of 4 blocks.
    "swin": Family(swin, 10, inputs=images(20)),
    # And the hidden layer of each block's position bias.
    "swin_v2": Family(
        partial(swin, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2),
        14,
        inputs=images(20),
    ),
    # 2 stems, the head; in each of 2 blocks: stream, expansion, gate, twice heads and hidden.
    "maxvit": Family(lambda: MaxVit((32, 32), 8, 4, [8, 12], [1, 1], 4, 0.1, num_classes=7), 17),
    # 2 streams, 3 hidden layers.
    "convnext": Family(
        lambda: ConvNeXt([CNBlockConfig(8, 12, 2), CNBlockConfig(12, None, 1)], num_classes=7), 5
    ),
    # Every convolution by itself: the stem, two in each of 4 layers, the transition.
    "densenet": Family(lambda: densenet.DenseNet(4, (2, 2), 8, 2, num_classes=7), 10),
    # The stem, 2 streams, and in each of 3 blocks: into the groups, out of them, the gate.
    "regnet": Family(
        lambda: regnet.RegNet(
            regnet.BlockParams([1, 2], [8, 16], [4, 4], [1.0, 1.0], [2, 2], 0.25),
            *(7, 8),
        ),
        12,
    ),
    # The stem, 6 and 7 convolutions.
    "inception": Family(inceptions, 14, inputs=images(12)),
    "encoder": Family(lambda: networks.Sentences(False), 5, inputs=sentences),
    "encoder_norm_first": Family(lambda: networks.Sentences(True), 5, inputs=sentences),
    # The stream, heads of self-attention and of attention between the sides, hidden layers.
    "translator": Family(networks.Translator, 6, inputs=sentences),
    # The embedding, what the recurrence reads, its state, the layer behind.
    "gru": Family(networks.Gru, 4, inputs=sentences),
    # Heads and hidden layers; the stream and the pooler are outputs.
    "bert": Family(bert, 4, {"network output": 24}, sentences),
    "unet": Family(networks.Segmenter, 7, inputs=images(16)),
    # 3 in the body, 2 streams of the pyramid, the merge that no stream meets, 5 in each context.
    "face_detector": Family(networks.FaceDetector, 21, {"network output": 3 * (8 + 4 + 20)}),
    # Groups of 2; then groups of 6, as two groups and three normalised sets share a divisor of 2.
    "waves": Family(networks.waves, 3, inputs=images(64, 2, 1)),
    "residual3d": Family(networks.Residual3d, 3, inputs=images(8, 3, 3)),
    "dataclass": Family(networks.Dataclassed, 1, {"network output": 7 + 6}, images(8)),
    # The backbone's 8, and the classifier's branches, which meet in a product.
    "lraspp": Family(lraspp, 9),
    # The stem, 4 branches and what joins them.
    "deeplab": Family(
        lambda: nn.Sequential(
            networks.block(3, 8), segmentation.deeplabv3.ASPP(8, [2, 3], 10), Conv2d(10, 7, 1)
        ),
        6,
        inputs=images(12),
    ),
    # As bert, without a pooler.
    "gpt2": Family(gpt2, 4, {"network output": 12}, sentences),
    # The backbone's 2, the proposals' 1, the boxes' 2; scores and boxes are picked.
    "faster_rcnn": Family(faster_rcnn, 5, {"topk at": 2, "nonzero at": 23}, one_photo),
    # The backbone's 2, 4 for either head.
    "retinanet": Family(retinanet, 10, {"nonzero at": 14}, one_photo),
    # 2 convolutions and a stream a stage, or one of them where the block is a pair; the gates.
    "timm_byobnet": from_timm("test_byobnet", 14),
    # A stream and a hidden layer a stage.
    "timm_convnext2": from_timm("test_convnext2", 8),
    # The stem, 5 blocks with 4 expansions and 2 gates, the last layer; norms over 8 or in 8 groups.
    "timm_efficientnet_evos": from_timm("test_efficientnet_evos", 13),
    "timm_efficientnet_gn": from_timm("test_efficientnet_gn", 13),
    "timm_efficientnet_ln": from_timm("test_efficientnet_ln", 13),
    # 2 stems, 4 streams, an inner convolution in each basic block and two in the bottleneck.
    "timm_resnet": from_timm("test_resnet", 11),
    # The stream; heads and a hidden layer in each of 9 blocks.
    "timm_vit4": from_timm("test_vit4", 19, img_size=32),
    # Its attention pool reshapes to the stream's width, so that the stream goes by heads.
    "timm_vit3": from_timm("test_vit3", 21, img_size=32),
    # A stream, heads and a hidden layer in each attention block; the convolutions of the others.
    "timm_coatnet": from_timm("test_coatnet", 15, inputs=images(64), img_size=64),
    # Of each first linear layer the gate with what it gates, and what passes by: 2 for each of 7.
    "timm_mambaout": from_timm("test_mambaout", 18),
    # Convolutions with standardised weights, and the gates' inner layers.
    "timm_nfnet": from_timm("test_nfnet", 25),
    # The attention reshapes to the stream's width, so that the stream goes by heads.
    "timm_vit_relpos": from_timm("test_vit_relpos", 19, img_size=32),
}
SLOW = ("resnext", "timm_nfnet", "timm_vit3", "timm_vit_relpos", "faster_rcnn", "retinanet")
"""Seconds long, or with outputs that are picked by their scores."""
