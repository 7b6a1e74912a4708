"""The networks of the zoo: how each is built, and which inputs it is made for.

No weights are downloaded: networks start from their own random initialisation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from zoo_people import people

from amc.config import ModelConfig
from amc.models.factory import build_model

Inputs = Callable[[nn.Module, int, torch.Generator], tuple[Any, ...]]
"""From the network, a batch size and a generator to the positional arguments of a forward."""


@dataclass(frozen=True)
class Network:
    """One network of the zoo."""

    name: str
    """``family:name``, as on amc's command line where it is known there."""
    build: Callable[[], nn.Module]
    inputs: Inputs
    classes: int = 1000
    """Layers with as many outputs are the classifiers, which torch-pruning must be told."""
    outputs: tuple[str, ...] = ()
    """Shell patterns of further layers that make the network's outputs."""

    @property
    def family(self) -> str:
        """``torchvision``, ``timm``, ``beyond`` or ``people``."""
        return self.name.partition(":")[0]


TIMM = (
    *("ghostnet_100", "mobilevit_s", "repvgg_a0", "res2net50_26w_4s", "mixer_s32_224"),
    *("deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_tiny", "regnety_004"),
    *("levit_128s", "edgenext_small", "efficientformer_l1", "poolformer_s12", "hrnet_w18_small"),
    *("dla34", "dm_nfnet_f0", "nf_resnet50", "nf_regnet_b1", "resnetv2_50", "resnetv2_50x1_bit"),
    *("coatnet_0_rw_224", "volo_d1_224", "resmlp_12_224", "gmlp_s16_224", "cait_xxs24_224"),
    *("xcit_nano_12_p16_224", "twins_pcpvt_small", "pit_ti_224", "tnt_s_patch16_224"),
    *("crossvit_tiny_240", "visformer_tiny", "convmixer_768_32", "mobilenetv4_conv_small"),
    *("fastvit_t8", "efficientvit_b0", "maxvit_tiny_rw_224", "vgg11_bn", "densenet121", "dpn68"),
    *("skresnet18", "cspresnet50", "darknet53", "vovnet39a", "selecsls42b", "ese_vovnet19b_dw"),
    *("rexnet_100", "lcnet_050", "tinynet_e", "davit_tiny", "pvt_v2_b0", "focalnet_tiny_srf"),
    *("mobileone_s0", "repvit_m0_9", "starnet_s1", "hiera_tiny_224", "resnest14d"),
)
"""Chosen for what is odd about each; several are small members of their family."""

FAST = (
    *("torchvision:resnet18", "torchvision:mobilenet_v3_small", "torchvision:squeezenet1_1"),
    *("torchvision:shufflenet_v2_x0_5", "torchvision:regnet_y_400mf"),
    *("timm:ghostnet_100", "timm:deit_tiny_patch16_224", "beyond:gru"),
)
"""A few minutes' worth, one of each kind."""


def zoo() -> dict[str, Network]:
    """Every network by its name."""
    from torchvision import models

    networks = [
        *(_classifier(name) for name in models.list_models(models)),
        *(Network(f"timm:{name}", _builder(f"timm:{name}"), _timm_images) for name in TIMM),
        *_beyond(),
        *(Network(f"people:{name}", *parts, classes=10) for name, parts in people().items()),
    ]
    return {network.name: network for network in networks}


def _builder(spec: str, **arguments: Any) -> Callable[[], nn.Module]:
    return lambda: build_model(ModelConfig(spec=spec, arguments=arguments))


def _classifier(name: str) -> Network:
    """One of torchvision's, at the size that its first ImageNet weights were trained for."""
    from torchvision.models import get_model_weights

    spec = f"torchvision:{name}"
    # Both inceptions warn about, and take seconds for, their default initialisation.
    arguments = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    trained = getattr(get_model_weights(name), "IMAGENET1K_V1", None)
    side = trained.transforms.keywords["crop_size"] if trained else 224
    return Network(spec, _builder(spec, **arguments), _tensors(3, side, side))


def _tensors(*shape: int) -> Inputs:
    return lambda _, batch, generator: (torch.randn(batch, *shape, generator=generator),)


def _timm_images(model: nn.Module, batch: int, generator: torch.Generator) -> tuple[Any, ...]:
    return _tensors(*model.pretrained_cfg["input_size"])(model, batch, generator)


def _image_list(side: int) -> Inputs:
    """What torchvision's detectors take: one list of images."""
    return lambda _, batch, generator: (
        [torch.rand(3, side, side, generator=generator) for _ in range(batch)],
    )


def _tokens(_: nn.Module, batch: int, generator: torch.Generator) -> tuple[Any, ...]:
    return (torch.randint(0, 500, (batch, 32), generator=generator),)


def _beyond() -> list[Network]:
    """Other tasks than the classification of images.

    The detectors' boxes are chosen by their scores, so that a small difference changes how many
    come out.
    """

    def torchvision(name: str, inputs: Inputs, *outputs: str, **arguments: Any) -> Network:
        build = _builder(f"torchvision:{name}", **arguments)
        return Network(f"beyond:{name}", build, inputs, classes=400, outputs=outputs)

    bare: dict[str, Any] = {"weights_backbone": None}
    small = {**bare, "min_size": 320, "max_size": 320}
    picture = _tensors(3, 224, 224)
    return [
        torchvision("ssdlite320_mobilenet_v3_large", _image_list(320), "head*", **bare),
        torchvision(
            "retinanet_resnet50_fpn", _image_list(320), "*.cls_logits", "*.bbox_reg", **small
        ),
        torchvision(
            "fasterrcnn_mobilenet_v3_large_fpn",
            _image_list(320),
            *("rpn.head.cls_logits", "rpn.head.bbox_pred", "backbone.fpn*", "roi_heads*"),
            **small,
        ),
        torchvision("lraspp_mobilenet_v3_large", picture, "classifier.*_classifier", **bare),
        torchvision("deeplabv3_resnet50", picture, "classifier.4", **bare),
        torchvision("fcn_resnet50", picture, "classifier.4", **bare),
        torchvision("r3d_18", _tensors(3, 8, 112, 112)),
        torchvision("s3d", _tensors(3, 16, 224, 224)),
        Network("beyond:encoder", Encoder, _tensors(32, 64), classes=10),
        Network("beyond:bert", _bert, _tokens, classes=10),
        Network("beyond:gru", Recurrent, _tensors(32, 24), classes=10),
    ]


class Encoder(nn.Module):
    """PyTorch's own transformer encoder below a classifier: (N, 32, 64) to (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, dim_feedforward=128, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 32, 64) to (N, 10)."""
        result: Tensor = self.head(self.encoder(x).mean(1))
        return result


class Recurrent(nn.Module):
    """A recurrent layer between two linear ones: (N, 32, 24) to (N, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(24, 48)
        self.gru = nn.GRU(48, 64, batch_first=True)
        self.hidden = nn.Linear(64, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 32, 24) to (N, 10)."""
        states, _ = self.gru(self.embed(x).relu())
        result: Tensor = self.head(self.hidden(states[:, -1]).relu())
        return result


def _bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=500,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        num_labels=10,
    )
    model: nn.Module = BertForSequenceClassification(config).eval()
    return model
