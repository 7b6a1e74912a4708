"""Images in memory, and the three splits: train, search-val (the reward), test (reports only)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import track
from torch import Tensor

from amc.config import DataConfig
from amc.errors import DataError
from amc.vision.crop_and_flip import random_crop, random_mirror

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
DIGITS_MEAN, DIGITS_STD = (0.5,), (0.5,)


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) in uint8 and their labels (N,) in int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> Split:
        """The images at ``indices`` (M,), in that order."""
        return Split(self.images[indices], self.labels[indices])

    def batches(self, order: Iterable[Tensor]) -> Iterator[Split]:
        """The images at each of the indices in ``order``."""
        return (self.take(indices) for indices in order)


class Images(Protocol):
    """A split, in memory (:class:`Split`) or on disk."""

    @property
    def labels(self) -> Tensor:
        """(N,) in int64, always in memory."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> Split:
        """The images at ``indices``, read into memory, in that order."""

    def batches(self, order: Iterable[Tensor]) -> Iterator[Split]:
        """The images at each of the indices in ``order``, read ahead where that helps. An image
        that cannot be read is left out."""


@dataclass(frozen=True)
class ImageData:
    """A dataset in memory: three disjoint splits, and how images are normalised and augmented."""

    name: str
    classes: tuple[str, ...]
    train: Images
    search_val: Images
    test: Images
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int
    """Pixels of zero padding on each side before the random crop; 0: no crop."""
    flip: bool
    """Whether a mirrored image is still of its class."""

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) to float32 of mean 0 and deviation 1, on the images' device."""
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        return images.float().mul_(1 / (255 * std)).sub_(mean / std)

    def augment(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Random crop after zero padding, then a random mirror: uint8 to uint8, the same shape.

        Every image draws its own offsets, from ``generator`` alone.
        """
        if self.crop_padding:
            images = random_crop(images, self.crop_padding, generator, total=len(images))
        if self.flip:
            images = random_mirror(images, generator, total=len(images))
        return images

    def example(self, batch: int = 1) -> Tensor:
        """The first ``batch`` training images, normalised: an input for tracing and counting."""
        return self.normalise(self.train.take(torch.arange(batch)).images)


def stratified_indices(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw ``count`` indices, ascending, with every class in proportion (to within one image).

    Each class is shuffled, its images spread evenly over (0, 1), and the ``count`` first positions
    of all are taken.
    """
    order = torch.randperm(len(labels), generator=generator)
    position = torch.empty(len(labels), dtype=torch.float64)
    for label in sorted(set(labels.tolist())):
        members = order[labels[order] == label]
        ranks = torch.arange(len(members), dtype=torch.float64)
        position[members] = (ranks + 0.5) / len(members)
    # Stable over the shuffled order, so that ties between classes do not favour low labels.
    first = order[position[order].argsort(stable=True)[:count]]
    return first.sort().values


def load_data(config: DataConfig, *, progress: bool = True) -> ImageData:
    """Read the dataset of ``config.spec`` into memory and draw its splits.

    Raises :class:`DataError` where images are missing, unreadable or of different sizes, or where
    the search-val split cannot be drawn.
    """
    source, _, folder = config.spec.partition(":")
    if config.spec == "digits":
        data = _load_digits(config)
    elif source == "cifar10" and folder:
        data = _load_cifar10(Path(folder).expanduser(), config)
    elif source == "imagefolder" and folder:
        data = _load_folder(Path(folder).expanduser(), config, progress)
    else:
        raise DataError(f"data {config.spec!r}: must be digits, cifar10:DIR or imagefolder:DIR")
    channels = data.example().shape[1] if len(data.mean) == len(data.std) else 0
    if not len(data.mean) == len(data.std) == channels or min(data.std) <= 0:
        raise DataError(
            f"mean {data.mean} and std {data.std}: the images have {channels} channels; give one "
            "mean and one positive std for each"
        )
    return data


# -- the datasets --------------------------------------------------------------------------------


def _load_digits(config: DataConfig) -> ImageData:
    """scikit-learn's 1,797 handwritten digits, 8x8; a seeded stratified fifth is the test split."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError("data 'digits' needs scikit-learn: pip install amc-agent[demo]") from None
    digits = load_digits()
    # Values are 0 to 16.
    images = torch.from_numpy(np.round(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    everything = Split(images, torch.from_numpy(digits.target.astype(np.int64)))
    rest, test = _draw(everything, 0.2, config.seed)
    train, search_val = _hold_out(rest, config)
    return ImageData(
        name="digits",
        classes=tuple(str(name) for name in digits.target_names),
        train=train,
        search_val=search_val,
        test=test,
        mean=config.mean or DIGITS_MEAN,
        std=config.std or DIGITS_STD,
        crop_padding=1,
        flip=False,
    )


def _load_cifar10(folder: Path, config: DataConfig) -> ImageData:
    from torchvision.datasets import CIFAR10

    try:
        parts = [CIFAR10(str(folder), train, download=config.download) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"cifar10:{folder}: {error}. Set download = true where there is a network, or unpack "
            f"cifar-10-python.tar.gz into {folder}"
        ) from None
    full, test = (
        Split(
            torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(),
            torch.tensor(part.targets, dtype=torch.int64),
        )
        for part in parts
    )
    train, search_val = _hold_out(full, config)
    return ImageData(
        name="cifar10",
        classes=tuple(parts[0].classes),
        train=train,
        search_val=search_val,
        test=test,
        mean=config.mean or CIFAR10_MEAN,
        std=config.std or CIFAR10_STD,
        crop_padding=4,
        flip=True,
    )


def _load_folder(folder: Path, config: DataConfig, progress: bool) -> ImageData:
    train_folder = folder / "train"
    held_out = next((folder / n for n in ("test", "val") if (folder / n).is_dir()), None)
    if not train_folder.is_dir() or held_out is None:
        raise DataError(f"imagefolder:{folder}: must hold the folders train and test (or val)")
    classes, train_paths, train_labels = _list_folder(train_folder)
    test_classes, test_paths, test_labels = _list_folder(held_out)
    if test_classes != classes:
        differing = sorted(set(classes) ^ set(test_classes))
        raise DataError(
            f"{held_out}: its classes differ from those of train ({', '.join(differing[:3])}); "
            "both must have the same sub-folders"
        )
    images = _decode([*train_paths, *test_paths], config.image_size, progress)
    full = Split(images[: len(train_paths)], train_labels)
    names = [path.relative_to(folder).as_posix() for path in train_paths]
    train, search_val = _hold_out(full, config, names, str(folder))
    return ImageData(
        name=folder.resolve().name,
        classes=classes,
        train=train,
        search_val=search_val,
        test=Split(images[len(train_paths) :], test_labels),
        mean=config.mean or IMAGENET_MEAN,
        std=config.std or IMAGENET_STD,
        crop_padding=min(images.shape[2:]) // 8,
        flip=True,
    )


# -- folders of images ---------------------------------------------------------------------------


def _list_folder(folder: Path) -> tuple[tuple[str, ...], list[Path], Tensor]:
    """Class names, paths and labels, in torchvision's order."""
    from torchvision.datasets import ImageFolder

    try:
        listed = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise DataError(f"{folder}: {error}") from None
    paths = [Path(path) for path, _ in listed.samples]
    return tuple(listed.classes), paths, torch.tensor(listed.targets, dtype=torch.int64)


def _decode(paths: Sequence[Path], size: int | None, progress: bool) -> Tensor:
    """Images (N, 3, H, W) in uint8. Serial: on 32-pixel JPEGs threads take longer."""
    first = _read_image(paths[0], size)
    images = np.empty((len(paths), *first.shape), dtype=np.uint8)
    console = Console(stderr=True)
    for index, path in enumerate(
        track(paths, "reading images", console=console, transient=True, disable=not progress)
    ):
        image = _read_image(path, size)
        if image.shape != first.shape:
            raise DataError(
                f"{path}: {image.shape[1]}x{image.shape[0]} pixels, but {paths[0]} has "
                f"{first.shape[1]}x{first.shape[0]}; set image_size to resize all images"
            )
        images[index] = image
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _read_image(path: Path, size: int | None) -> NDArray[np.uint8]:
    """One image (H, W, 3); with ``size``, shorter side to ``size`` and centre crop."""
    try:
        with Image.open(path) as stored:
            image = stored.convert("RGB")
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"{path}: not a readable image: {error}") from None
    if size is not None:
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
    return np.asarray(image)


# -- the splits ----------------------------------------------------------------------------------


def _hold_out(
    whole: Split, config: DataConfig, names: Sequence[str] = (), root: str = ""
) -> tuple[Split, Split]:
    """Train and search-val. ``names`` are the images' paths, where a file could list them."""
    value = 0.1 if config.search_val is None else config.search_val
    try:
        fraction = float(value)
    except ValueError:
        return _divide(whole, _listed(Path(str(value)).expanduser(), names, root))
    if not 0 < fraction < 1:
        raise DataError(f"search_val {fraction}: the fraction must lie between 0 and 1")
    return _draw(whole, fraction, config.seed)


def _listed(listing: Path, names: Sequence[str], root: str) -> Tensor:
    """Ascending indices into ``names`` (``train/CLASS/FILE``) of the lines of ``listing``."""
    if not names:
        raise DataError(
            f"search_val '{listing}': only the images of an imagefolder have paths that a file "
            "can list; give a fraction"
        )
    if not listing.is_file():
        raise DataError(f"search_val '{listing}': neither a file nor a fraction")
    index_of = {name: index for index, name in enumerate(names)}
    index_of |= {name.removeprefix("train/"): index for index, name in enumerate(names)}
    lines = [line.strip() for line in listing.read_text().splitlines() if line.strip()]
    unknown = [line for line in lines if line not in index_of]
    if unknown:
        raise DataError(
            f"{listing}: {len(unknown)} of its {len(lines)} paths are not training images of "
            f"{root}, the first is {unknown[0]!r}; write them as train/CLASS/FILE"
        )
    return torch.tensor(sorted({index_of[line] for line in lines}), dtype=torch.int64)


def _draw(whole: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """The rest, and a seeded stratified ``fraction``."""
    generator = torch.Generator().manual_seed(seed)
    count = round(fraction * len(whole))
    return _divide(whole, stratified_indices(whole.labels, count, generator))


def _divide(whole: Split, chosen: Tensor) -> tuple[Split, Split]:
    """The rest and the chosen images; raises :class:`DataError` where either is empty."""
    rest = torch.ones(len(whole), dtype=torch.bool)
    rest[chosen] = False
    if len(chosen) == 0 or not bool(rest.any()):
        raise DataError(
            f"holding out {len(chosen)} of {len(whole)} images leaves a split empty; change "
            "search_val"
        )
    return whole.take(rest.nonzero().squeeze(1)), whole.take(chosen)
