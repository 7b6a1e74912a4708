"""The items of a user's PyTorch data set, (image, label)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from amc.errors import DataError
from amc.vision.decoding import is_grey, to_8_bits
from amc.vision.skipped import UnreadableError

_LOOKED_AT = 16
"""Items, spread over a data set, that tell whether images are grey and listed labels true."""


@dataclass(frozen=True)
class Items:
    """The items of a user's data set, (image, label)."""

    dataset: Any
    labels: Tensor
    where: str
    channels: int = 3

    def name(self, index: int) -> str:
        """Its place."""
        return f"{self.where}[{index}]"

    def paths(self) -> Iterator[str]:
        """None."""
        return iter(())

    def read(self, index: int) -> Image.Image | Tensor:
        """One image, whatever the data set does to it."""
        with seeded(index):  # the same image, whichever process reads it and whenever
            try:
                image, _ = self.dataset[index]
            except Exception as error:  # the user's own code: anything may come
                reason = f"{type(error).__name__}: {error}".partition("\n")[0]
                raise UnreadableError(f"{self.name(index)}: {reason}") from error
        return to_image(image, self.name(index), self.channels)

    def channels_of_first(self) -> int:
        """Of the first image that can be read; Pillow's are grey only if some others are, too."""
        count = 0
        for index in torch.linspace(0, len(self.labels) - 1, _LOOKED_AT).long().tolist():
            try:
                with seeded(index):
                    image, _ = self.dataset[index]
            except Exception:  # it is counted when images are read
                continue
            if isinstance(image, Tensor):
                return int(image.shape[0]) if image.dim() == 3 else 1
            if not isinstance(image, Image.Image) or not is_grey(image):
                return 3
            count += 1
        return 1 if count else 3


def to_image(image: Any, name: str, channels: int) -> Image.Image | Tensor:
    """A user's image: of Pillow in mode L or RGB, or uint8 (C, H, W).

    Raises :class:`DataError` for anything that is no image, or that is normalised.
    """
    if isinstance(image, Image.Image):
        return to_8_bits(image, name, channels)
    if not isinstance(image, Tensor) or image.dim() != 3:
        shape = tuple(image.shape) if isinstance(image, Tensor) else ""
        form = f"{type(image).__name__} {shape}".rstrip()
        raise DataError(
            f"{name}: its image is {form}; return an image of Pillow, or a tensor (C, H, W)"
        )
    pixels: Tensor = image.detach().cpu().as_subclass(Tensor)
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point() or not _in_range(pixels):
        raise DataError(
            f"{name}: its image is {pixels.dtype} from {pixels.min():.3g} to {pixels.max():.3g}; "
            "return images before they are normalised: in [0, 1], or uint8"
        )
    return (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8)


def _in_range(pixels: Tensor) -> bool:
    """Whether they are in [0, 1], but for what rounding does."""
    return bool((pixels >= -1e-3).all() and (pixels <= 1 + 1e-3).all())


def items_of(given: Any, where: str) -> Items:
    """A data set and its labels."""
    dataset: Any = given.dataset if isinstance(given, DataLoader) else given
    sized = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if isinstance(dataset, IterableDataset) or not sized:
        raise DataError(
            f"{where}: is {type(dataset).__name__}; it must be a torch.utils.data.Dataset with a "
            "length, or a DataLoader of one"
        )
    if not len(dataset):
        raise DataError(f"{where}: has no items")
    listed = _listed_labels(dataset)
    if listed is None or not _agree(dataset, listed, where):
        read = (_label(_item(dataset, index, where), index, where) for index in range(len(dataset)))
        listed = torch.tensor(list(read), dtype=torch.int64)
    if int(listed.min()) < 0:
        raise DataError(f"{where}: has the label {int(listed.min())}; labels count from 0")
    return Items(dataset, listed, where)


def _listed_labels(dataset: Any) -> Tensor | None:
    """Labels that a data set of torchvision's kind lists, so that no image needs to be read."""
    if isinstance(dataset, Subset):
        whole = _listed_labels(dataset.dataset)
        return None if whole is None else whole[torch.as_tensor(dataset.indices)]
    if isinstance(dataset, TensorDataset):
        listed: Any = dataset.tensors[1]
    else:
        names = ("targets", "labels", "_labels", "y")
        listed = next((getattr(dataset, n) for n in names if hasattr(dataset, n)), None)
    try:
        labels = torch.as_tensor(listed)
    except (TypeError, ValueError, RuntimeError):
        return None
    whole_numbers = not labels.is_floating_point() and labels.dtype != torch.bool
    fits = whole_numbers and labels.dim() == 1 and len(labels) == len(dataset)
    return labels.to(torch.int64) if fits else None


def _agree(dataset: Any, listed: Tensor, where: str) -> bool:
    """Whether the labels of some items are those that are listed, as they are unless the data set
    changes them on the way."""
    for index in torch.linspace(0, len(listed) - 1, _LOOKED_AT).long().unique().tolist():
        try:
            item = dataset[index]
        except Exception:  # it is counted when images are read
            continue
        if _label(item, index, where) != int(listed[index]):
            return False
    return True


def _item(dataset: Any, index: int, where: str) -> Any:
    try:
        return dataset[index]
    except Exception as error:  # the user's own code: anything may come
        raise DataError(
            f"{where}[{index}]: raised {type(error).__name__}: {error}; give the data set an "
            "attribute targets, a list of all labels, to have such items left out"
        ) from error


def _label(item: Any, index: int, where: str) -> int:
    """Of one item; raises :class:`DataError` where it has none."""
    if isinstance(item, tuple | list) and len(item) == 2:
        label = np.asarray(item[1])
        if label.size == 1 and label.dtype.kind in "iu":
            return int(label.item())
    raise DataError(f"{where}[{index}]: must be (image, label), with a whole number as label")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators, and put them back."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (the user's code)
    torch_state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)  # of the CPU: images are not made on a GPU
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(torch_state)
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
