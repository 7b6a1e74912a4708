"""Which network, and which images."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from amc.utils.options import AGENT, RUN, Option
from amc.utils.settings import Settings

NETWORK = ("search", "replay", "compare", "inspect", "measure")
"""Commands that take a network."""

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Cache = Literal["auto", "memory", "disk"]


class ModelConfig(Settings):
    """Which network, and where its weights are."""

    spec: str
    """``amc:NAME``, ``torchvision:NAME``, ``timm:NAME`` or ``path/to/file.py:function``."""
    weights: Annotated[str | None, Option("--weights", (*NETWORK, "apply"), basic=True)] = None
    """Trained weights: ``.safetensors``, or ``.pth``, ``.pt``, ``.ckpt``, ``.bin`` of tensors;
    FILE#KEY takes those under a key; default: random, or what your own function loads."""
    arguments: Annotated[
        dict[str, Any], Option("--model-arg", NETWORK, texts=True, metavar="KEY=VALUE")
    ] = Field(default_factory=dict)
    """Argument of the model's factory, KEY=VALUE; repeatable."""

    @classmethod
    def of(cls, text: str) -> ModelConfig:
        """The network of ``SPEC`` or ``SPEC@WEIGHTS``."""
        spec, _, weights = text.partition("@")
        return cls(spec=spec, weights=weights or None)


class DataConfig(Settings):
    """Which images, how they are prepared, and how the three splits are drawn.

    Preparation that is None here is what the model says, otherwise what the data set says
    (:mod:`amc.vision.preprocessing`). A run records what was found, so that it is the same when the
    run is resumed.
    """

    spec: Annotated[str, Option("--data", basic=True)] = "digits"
    """``digits`` (embedded), ``imagefolder:DIR`` (``train/`` and ``test/``), ``cifar10:DIR``,
    ``huggingface:DIR`` (a data set saved on disk) or ``path/to/file.py:function`` (which returns
    PyTorch data sets or loaders)."""
    search_val: Annotated[str | float | None, Option("--search-val")] = None
    """Images on which plans are scored: a fraction held out of the training images, a file of
    their paths, or a folder of other images; default: 0.1."""
    seed: int = 0
    """Seed of the split when it is drawn."""
    mean: Annotated[tuple[float, ...] | None, Option("--mean", commas=True)] = None
    """Mean of each channel, for images in [0, 1]: 0.485,0.456,0.406; default: the model's, or the
    data set's."""
    std: Annotated[tuple[float, ...] | None, Option("--std", commas=True)] = None
    """Standard deviation of each channel; default: the model's, or the data set's."""
    image_size: Annotated[int | None, Option("--image-size")] = Field(None, ge=1)
    """Side of the images that the network sees, in pixels; default: the model's, or as stored."""
    crop_pct: Annotated[float | None, Option("--crop-pct")] = Field(None, gt=0, le=1)
    """The shorter side is resized to image-size / crop-pct, and the centre cropped; default: the
    model's, or 1."""
    interpolation: Annotated[Interpolation | None, Option("--interpolation")] = None
    """How images are resized: nearest, bilinear, bicubic or lanczos; default: the model's, or
    bilinear."""
    cache: Annotated[Cache, Option("--cache", panel=RUN)] = "auto"
    """Where images are: in memory, or read from disk whenever they are needed (disk); auto: in
    memory where they fit well."""
    data_workers: Annotated[int | None, Option("--data-workers", panel=RUN)] = Field(None, ge=0)
    """Processes that read images from disk; default: one for each free core."""
    max_corrupt: Annotated[int, Option("--max-corrupt")] = Field(10, ge=0)
    """Unreadable images that are skipped, and counted, before reading stops with an error."""
    download: Annotated[bool, Option("--download")] = False
    """Download what ``cifar10:DIR`` lacks."""


class EvaluateConfig(Settings):
    """How one plan is scored."""

    images: Annotated[int, Option("--images", panel=AGENT)] = Field(1000, ge=1)
    """Search-val images that score a plan."""
    calibration_images: Annotated[int, Option("--calibration-images", panel=AGENT)] = Field(
        256, ge=0
    )
    """Training images that re-estimate the BatchNorm statistics of every plan; 0: the dense
    network's."""
    batch_size: int = Field(250, ge=1)
    bf16: Annotated[bool | None, Option("--bf16", panel=RUN)] = None
    """Compute in bfloat16; default: where the hardware has it."""
    reconstruct: Annotated[bool, Option("--reconstruct", ("search", "replay"), AGENT)] = False
    """Let layers make up for lost inputs by least squares, in every plan that is scored and in the
    one that is applied.

    See :mod:`amc.pruning.reconstruction`."""
