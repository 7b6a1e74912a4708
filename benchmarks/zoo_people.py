"""The family ``people``: networks as strangers write them, or configure them, small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from zoo_huggingface import HUGGINGFACE, huggingface, words
from zoo_people_blocks import (
    VAE,
    CBAMNet,
    FasterNet,
    OptionA,
    PointNet,
    Restorer,
    StyleGenerator,
    discriminator,
)
from zoo_people_sequences import CRNN, TCN, ConvGRU, Llama, NanoGPT, Tagger, WaveNet
from zoo_people_vision import (
    C3,
    AnchorHead,
    AttentionUNet,
    C2f,
    Deformable,
    DiffusionUNet,
    DistributionHead,
    Yolo,
    repvgg,
)

Inputs = Callable[[nn.Module, int, torch.Generator], tuple[Any, ...]]


def draws(*shape: int) -> Inputs:
    """One tensor of normal numbers, (N, *shape)."""
    return lambda _, batch, generator: (torch.randn(batch, *shape, generator=generator),)


def noisy(_: nn.Module, batch: int, generator: torch.Generator) -> tuple[Any, ...]:
    """Images and the time step of each."""
    images = torch.randn(batch, 3, 16, 16, generator=generator)
    return images, torch.randint(0, 1000, (batch,), generator=generator)


WRITTEN: dict[str, tuple[Callable[[], nn.Module], Inputs]] = {
    "yolo_v5": (lambda: Yolo(C3, AnchorHead((64, 128, 128))), draws(3, 128, 128)),
    "yolo_v8": (lambda: Yolo(C2f, DistributionHead((64, 128, 128))), draws(3, 128, 128)),
    "attention_unet": (AttentionUNet, draws(3, 64, 64)),
    "repvgg_unmerged": (repvgg, draws(3, 64, 64)),
    "deformable": (Deformable, draws(3, 64, 64)),
    "diffusion_unet": (DiffusionUNet, noisy),
    "resnet_option_a": (OptionA, draws(3, 32, 32)),
    "fasternet": (FasterNet, draws(3, 64, 64)),
    "cbam_resnet": (CBAMNet, draws(3, 64, 64)),
    "nafnet": (Restorer, draws(3, 32, 32)),
    "spectral_discriminator": (discriminator, draws(3, 64, 64)),
    "style_generator": (StyleGenerator, draws(32)),
    "vae": (VAE, draws(3, 32, 32)),
    "pointnet": (PointNet, draws(3, 128)),
    "conv_gru": (ConvGRU, draws(4, 3, 24, 24)),
    "tcn_weight_norm": (TCN, draws(8, 64)),
    "wavenet": (WaveNet, draws(16, 64)),
    "crnn": (CRNN, draws(1, 16, 64)),
    "lstm_tagger": (Tagger, words),
    "nano_gpt": (NanoGPT, words),
    "llama_by_hand": (Llama, words),
}
"""Written by hand: builder and inputs."""


def people() -> dict[str, tuple[Callable[[], nn.Module], Inputs]]:
    """Builder and inputs of each network, by name."""
    configured = {
        name: ((lambda name=name: huggingface(name)), entry[3])
        for name, entry in HUGGINGFACE.items()
    }
    return {**configured, **WRITTEN}
