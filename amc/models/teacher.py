"""A teacher from a file: another network, trained for the same classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amc.config import ModelConfig
from amc.errors import ConfigError, ModelError, WeightsError
from amc.models.factory import build_model
from amc.presets import in_file


def teacher_model(
    spec: str, num_classes: int, in_channels: int, *, example: Tensor | None = None
) -> nn.Module:
    """The network of ``SPEC@WEIGHTS``, in eval mode on the CPU. It will see the images as the
    student does: with the same size and normalisation.

    A network in a user's Python file may load its weights itself; whether such a file may be run is
    asked before (:func:`amc.models.factory.check_allowed`).

    Args:
        spec: ``amc:resnet56@big.safetensors``.
        num_classes: of the images.
        in_channels: of the images.
        example: normalised images (n, C, H, W) on which :func:`teacher_logits` tries it.

    Raises:
        ConfigError: it has no weights, or other classes.
        ModelError: it cannot be built, its weights do not fit, or its forward fails.
    """
    config = ModelConfig.of(spec)
    if config.weights is None and not in_file(config.spec):
        raise ConfigError(
            f"teacher {spec}: it is not trained, and teaches nothing; write "
            f"{config.spec}@FILE.safetensors (or .pth)"
        )
    try:
        teacher = build_model(config, num_classes=num_classes, in_channels=in_channels)
    except WeightsError as error:
        raise WeightsError(
            f"teacher {config.spec} for {num_classes} classes and {in_channels} channels: {error}"
        ) from None
    if example is not None:
        teacher_logits(teacher, example, num_classes)
    return teacher


def teacher_logits(teacher: nn.Module, images: Tensor, num_classes: int) -> Tensor:
    """What a teacher in eval mode makes of ``images`` (n, C, H, W): (n, num_classes), float32.

    Raises :class:`ModelError` where it fails, and :class:`ConfigError` where it has other classes.
    """
    try:
        with torch.no_grad():
            logits = teacher(images)
    except Exception as error:  # the user's network may raise anything
        raise ModelError(
            f"the teacher fails on images of shape {tuple(images.shape)}, which the student takes: "
            f"{error}"
        ) from error
    found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or found != (len(images), num_classes):
        raise ConfigError(
            f"the teacher gives {found} for {len(images)} images, but there are {num_classes} "
            "classes; take one that was trained for them"
        )
    return logits.float()
