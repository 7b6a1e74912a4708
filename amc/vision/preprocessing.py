"""How images are prepared: as the user says, otherwise as the network or the data set does."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby
from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from amc.config import DataConfig
from amc.errors import AMCError, DataError
from amc.models.preparation import Said

_NAMES = ("mean", "std", "image_size", "crop_pct", "interpolation")
_LOOKED_AT = 20
_OPTIONS = "--mean --std --image-size --crop-pct --interpolation"

Found = dict[str, tuple[Any, str]]
"""By setting: its value, and who says it."""


def resolve_preprocessing(
    config: DataConfig,
    by_model: Said | None,
    by_data: Said,
    *,
    channels: int,
    stored: tuple[int, int] | None = None,
    user: str = "yours",
) -> tuple[DataConfig, tuple[str, ...]]:
    """``config`` with its preparation filled in, and a line for the user of what it is and by whom.

    ``mean``, ``std``, ``image_size``, ``crop_pct`` and ``interpolation`` each come from ``config``
    (of the ``user``), otherwise from the network, otherwise from the data set. ``image_size`` stays
    None where images are taken as they are stored. ``stored`` is their height and width in pixels,
    None where they differ or nobody knows. Nothing is enlarged unless the user asks for it: images
    that are smaller than the network's stay as they are, and of those that are hardly larger less
    is cropped than the network says.

    Raises :class:`DataError` where mean and std of the user do not fit the number of ``channels``.
    """
    mine = Said.model_construct(by=user, **{name: getattr(config, name) for name in _NAMES})
    says = [mine, *([by_model] if by_model is not None else []), by_data]
    found: Found = {"crop_pct": (1.0, "by default"), "interpolation": ("bilinear", "by default")}
    found |= dict.fromkeys(("mean", "std"), ((0.5,) * channels, "by default"))
    for said in reversed(says):
        fits = said is mine or _fits(said, channels)
        names = _NAMES if fits else _NAMES[2:]
        found |= {n: (getattr(said, n), said.by) for n in names if getattr(said, n) is not None}
    mean, std = found["mean"][0], found["std"][0]
    if not len(mean) == len(std) == channels or min(std) <= 0:
        raise DataError(
            f"mean {_numbers(mean)} and std {_numbers(std)}: the images have {channels} channels; "
            "give one mean and one positive std for each (--mean --std)"
        )
    remarks = [] if by_model is None or _fits(by_model, channels) else [_unfit(by_model, channels)]
    remarks += _never_enlarge(found, stored, user)
    values = {name: value for name, (value, _) in found.items()}
    return config.model_copy(update=values), (_line(found, stored, remarks, user),)


def _fits(said: Said, channels: int) -> bool:
    return all(len(x) == channels for x in (said.mean, said.std) if x is not None)


def _unfit(said: Said, channels: int) -> str:
    count = len(said.mean or said.std or ())
    return f"{_short(said.by)} mean and std are for {count} channels, the images have {channels}"


def _never_enlarge(found: Found, stored: tuple[int, int] | None, user: str) -> list[str]:
    """Changes size and crop of ``found``, and says why."""
    remarks = []
    size, by = found.get("image_size", (None, ""))
    if size is not None and stored is not None and min(stored) < size and by != user:
        del found["image_size"]
        remarks.append(f"{_short(by)} {size} px would enlarge them: --image-size {size}")
    crop, by = found["crop_pct"]
    if "image_size" not in found and by != user:
        found["crop_pct"] = 1.0, "by default"
    elif "image_size" not in found and crop != 1:
        remarks.append("--crop-pct does nothing without --image-size")
    elif stored is not None and by != user and crop < (least := min(1.0, size / min(stored))):
        found["crop_pct"] = least, f"{_short(by)} {_number(crop)} would enlarge them"
    return remarks


def _short(by: str) -> str:
    """``the model's`` of ``the model's, timm``."""
    return by.partition(",")[0]


def _line(found: Found, stored: tuple[int, int] | None, remarks: list[str], user: str) -> str:
    """``preprocessing  mean .5,.5,.5, std .5,.5,.5 (the model's, timm); ...``."""
    said = [(f"{n} {_numbers(found[n][0])}", found[n][1]) for n in ("mean", "std")]
    if "image_size" in found:
        size, crop, interpolation = (found[name] for name in _NAMES[2:])
        said += [(f"{size[0]} px", size[1]), (f"crop {_number(crop[0])}", crop[1]), interpolation]
    parts = [
        f"{', '.join(text for text, _ in group)} ({by})"
        for by, group in groupby(said, key=lambda item: item[1])
    ]
    if "image_size" not in found:
        pixels = f", {stored[0]}x{stored[1]} px" if stored is not None else ""
        parts.append(f"images as stored{pixels}")
    if any(by != user for _, by in said):
        remarks = [*remarks, f"override with {_OPTIONS}"]
    return f"preprocessing  {'; '.join([*parts, *remarks])}"


def _numbers(values: tuple[float, ...]) -> str:
    return ",".join(_number(value) for value in values)


def _number(value: float) -> str:
    """Three digits without the zero before the point: ``.485``."""
    text = f"{value:.4g}"
    return text.removeprefix("0") if text.startswith("0.") else text


class Stored(Protocol):
    """Images where they are stored."""

    @property
    def labels(self) -> Tensor:
        """(N,)."""

    @property
    def read(self) -> Callable[[int], Image.Image | Tensor]:
        """Gives one of them, by its number: (C, H, W), or of Pillow."""


def size_as_stored(images: Stored) -> tuple[int, int] | None:
    """Height and width in pixels of the images; None where some that are looked at differ."""
    count = len(images.labels)
    sizes: set[tuple[int, int]] = set()
    for index in range(0, count, max(1, count // _LOOKED_AT)):
        try:
            image = images.read(index)
        except (AMCError, OSError):  # reading them all will tell
            continue
        if isinstance(image, Tensor):
            sizes.add((image.shape[1], image.shape[2]))
        else:
            sizes.add((image.height, image.width))
    return sizes.pop() if len(sizes) == 1 else None
