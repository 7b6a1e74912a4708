"""What a network says of how its images are prepared. Nothing is downloaded to ask it.

A timm network carries ``pretrained_cfg``, and torchvision names transforms with its weights. A
user's own network says it in the attribute ``pretrained_cfg`` (or ``default_cfg``), a dictionary of
timm's form of which every key may be missing::

    model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
                            "input_size": (3, 64, 64), "crop_pct": 1.0, "interpolation": "bilinear"}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Self, get_args

from pydantic import Field, FiniteFloat
from torch import nn

from amc.config import DataConfig, ModelConfig
from amc.config.inputs import Interpolation
from amc.utils.settings import Settings

_NAMES = ("pretrained_cfg", "default_cfg")


class Preparation(Settings):
    """How images are prepared; None: nobody says, and of ``image_size``: as they are stored."""

    mean: tuple[FiniteFloat, ...] | None = None
    """Of each channel, for images in [0, 1]."""
    std: tuple[Annotated[FiniteFloat, Field(gt=0)], ...] | None = None
    image_size: int | None = Field(None, ge=1)
    """Side in pixels."""
    crop_pct: float | None = Field(None, gt=0, le=1)
    """``image_size`` as a fraction of the shorter side before the centre is cropped."""
    interpolation: Interpolation | None = None

    @classmethod
    def of(cls, config: DataConfig) -> Self:
        """Of images as ``config`` prepares them."""
        return cls(**{name: getattr(config, name) for name in Preparation.model_fields})


class Said(Preparation):
    """What a network, or a data set, says of how images are prepared."""

    by: str
    """Who says it, for the user: ``the model's, timm``."""


def said_by(model: nn.Module, config: ModelConfig) -> Said | None:
    """What ``model``, which ``config`` built, says; None where it says nothing.

    Raises :class:`~amc.errors.ConfigError` where a network's ``pretrained_cfg`` is not sound.
    """
    source, _, name = config.spec.rpartition(":")
    if source == "torchvision":
        return _by_torchvision(name, config.arguments.get("weights"))
    for attribute in _NAMES:
        found = getattr(model, attribute, None)
        if isinstance(found, Mapping):
            by = "the model's, timm" if source == "timm" else f"the model's {attribute}"
            return _by_timm(found, by, f"{config.spec}: {attribute}")
    return None


def has_random_weights(config: ModelConfig) -> bool:
    """Whether nothing but chance gave the network its weights.

    A function of the user's own may load some: False.
    """
    source = config.spec.partition(":")[0]
    own = {"amc": (), "torchvision": ("weights",), "timm": ("pretrained", "checkpoint_path")}
    if config.weights is not None or source not in own:
        return False
    return not any(config.arguments.get(name) for name in own[source])


def _by_timm(found: Mapping[str, Any], by: str, where: str) -> Said:
    """From a dictionary of timm's form (``timm.models.PretrainedCfg``)."""
    values = {name: found[name] for name in ("mean", "std", "crop_pct") if name in found}
    if isinstance(values.get("crop_pct"), int | float):
        values["crop_pct"] = min(1.0, values["crop_pct"])  # timm pads images for some networks
    size = found.get("input_size")
    if isinstance(size, list | tuple) and len(size) == 3 and size[1] == size[2]:
        values["image_size"] = size[2]
    if found.get("interpolation") in get_args(Interpolation):  # timm's may be "random"
        values["interpolation"] = found["interpolation"]
    return Said.parse({"by": by, **values}, where)


def _by_torchvision(name: str, weights: Any) -> Said | None:
    """From the transforms that belong to the ``weights``, or to the best ones of the network."""
    from torchvision import models

    known = models.get_model_weights(name)
    if not len(known):
        return None
    # Names may be written as the factory takes them: IMAGENET1K_V1, DEFAULT.
    entry = known.__members__.get(str(weights).rpartition(".")[2], known.DEFAULT)
    preset = entry.transforms()
    mean, std, crop = (getattr(preset, key, None) for key in ("mean", "std", "crop_size"))
    if not crop:  # of detection, segmentation or video, not of images of one size
        return None
    resized = getattr(preset, "resize_size", None) or crop
    return Said(
        by="the model's, torchvision",
        mean=mean,
        std=std,
        image_size=crop[0],
        crop_pct=min(1.0, crop[0] / resized[0]),
        interpolation=preset.interpolation.value,
    )
