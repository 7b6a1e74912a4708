"""Which images are held out: search-val, on which plans are scored."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from amc.errors import DataError
from amc.vision.data import stratified_indices
from amc.vision.stored import Stored

DEFAULT_FRACTION = 0.1


def hold_out(stored: Stored, search_val: str | float | None, seed: int) -> tuple[Tensor, Tensor]:
    """Ascending indices of the images for training, and of those for search-val.

    ``search_val`` is a fraction, drawn in proportion from every class, or a file that lists paths.
    Raises :class:`DataError` for anything else, and where a split would be empty.
    """
    value = DEFAULT_FRACTION if search_val is None else search_val
    try:
        fraction = float(value)
    except ValueError:
        listed = _listed(Path(str(value)).expanduser(), stored)
        return divide(stored.labels, listed)
    if not 0 < fraction < 1:
        raise DataError(f"search_val {fraction}: the fraction must lie between 0 and 1")
    rest, chosen = draw(stored.labels, fraction, seed)
    return divide(stored.labels, _leaving_one(stored.labels, rest, chosen))


def draw(labels: Tensor, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """The rest, and a seeded stratified ``fraction`` of the images, as ascending indices."""
    generator = torch.Generator().manual_seed(seed)
    count = round(fraction * len(labels))
    return divide(labels, stratified_indices(labels, count, generator))


def divide(labels: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """The rest and the chosen; raises :class:`DataError` where either is empty."""
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[chosen] = False
    if len(chosen) == 0 or not bool(rest.any()):
        raise DataError(
            f"holding out {len(chosen)} of {len(labels)} images leaves a split empty; change "
            "search_val"
        )
    return rest.nonzero().squeeze(1), chosen


def _leaving_one(labels: Tensor, rest: Tensor, chosen: Tensor) -> Tensor:
    """``chosen`` without the first image of each class that would have none left for training."""
    gone = set(labels[chosen].tolist()) - set(labels[rest].tolist())
    kept = torch.ones(len(chosen), dtype=torch.bool)
    for label in gone:
        kept[(labels[chosen] == label).nonzero()[0]] = False
    return chosen[kept]


def _listed(listing: Path, stored: Stored) -> Tensor:
    """Ascending indices of the images (``train/CLASS/FILE``) in the lines of ``listing``."""
    if next(stored.paths(), None) is None:
        raise DataError(
            f"search_val '{listing}': only the images of an imagefolder have paths that a file "
            "can list; give a fraction, or a folder of other images"
        )
    if not listing.is_file():
        raise DataError(f"search_val '{listing}': neither a file, nor a folder, nor a fraction")
    lines = [line.strip() for line in listing.read_text().splitlines() if line.strip()]
    found: dict[str, int] = {}
    wanted = set(lines)
    for index, path in enumerate(stored.paths()):
        found |= {text: index for text in (path, path.removeprefix("train/")) if text in wanted}
    unknown = [line for line in lines if line not in found]
    if unknown:
        raise DataError(
            f"{listing}: {len(unknown)} of its {len(lines)} paths are not training images, the "
            f"first is {unknown[0]!r}; write them as train/CLASS/FILE"
        )
    return torch.tensor(sorted(set(found.values())), dtype=torch.int64)
