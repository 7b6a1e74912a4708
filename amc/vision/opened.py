"""A network, and images prepared for it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from amc.config import DataConfig, ModelConfig
from amc.models.factory import build_resolved
from amc.models.preparation import Said, said_by
from amc.vision.data import ImageData
from amc.vision.preprocessing import resolve_preprocessing, size_as_stored
from amc.vision.sources import open_source


@dataclass(frozen=True, eq=False)
class Opened:
    """A network, and images prepared for it."""

    dense: nn.Module
    config: ModelConfig
    images: ImageData
    data: DataConfig | None = None
    notes: tuple[str, ...] = ()


def open_both(
    model: ModelConfig, data: DataConfig | ImageData | str, recorded: bool, progress: bool
) -> Opened:
    """Build ``model`` for the images of ``data``, and prepare those as it wants them.

    ``recorded``: ``data`` is of a run that goes on, and the network is not asked. Raises what
    building and reading raise.
    """
    # What the images tell about the network goes into its plan: nobody who builds it again from a
    # file has the images at hand.
    if isinstance(data, ImageData):
        told = {"num_classes": len(data.classes), "in_channels": data.example().shape[1]}
        built = build_resolved(model, **told)
        notes = (*built.notes, *(f"data  {note}" for note in data.notes))
        return Opened(built.model, built.config, data, notes=notes)
    data = DataConfig(spec=data) if isinstance(data, str) else data
    source = open_source(data)
    told = {"num_classes": len(source.classes), "in_channels": source.channels}
    dense, config, said = build_resolved(model, **told)
    prepared, notes = resolve_preprocessing(
        data,
        None if recorded else said_by(dense, config),
        Said.parse({"by": "the data set's", **source.defaults}),
        channels=source.channels,
        stored=size_as_stored(source.train),
        user="the run's" if recorded else "yours",
    )
    images = source.read(prepared, progress=progress)
    notes = (*said, *notes, *(f"data  {note}" for note in images.notes))
    return Opened(dense, config, images, prepared, notes)
