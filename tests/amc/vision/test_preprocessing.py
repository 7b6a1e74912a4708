"""Who decides how images are prepared, and that nothing is enlarged unasked."""

import itertools

import pytest
import torch
from PIL import Image

from amc.config import DataConfig
from amc.errors import DataError
from amc.models.preparation import Said
from amc.vision.data import Split
from amc.vision.preprocessing import resolve_preprocessing, size_as_stored

USER = {
    **{"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "image_size": 32},
    **{"crop_pct": 0.8, "interpolation": "nearest"},
}
MODEL = {
    **{"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "image_size": 64},
    **{"crop_pct": 0.9, "interpolation": "bicubic"},
}
DATA = {"mean": (0.7, 0.7, 0.7), "std": (0.3, 0.3, 0.3)}
NOBODY = {"image_size": None, "crop_pct": 1.0, "interpolation": "bilinear"}


@pytest.mark.parametrize("model_says", [False, True])
@pytest.mark.parametrize(
    "typed",
    [names for count in range(6) for names in itertools.combinations(USER, count)],
    ids="-".join,
)
def test_first_the_user_then_the_model_then_the_data_set(typed, model_says):
    config = DataConfig(**{name: USER[name] for name in typed})
    model = Said(by="the model's, timm", **MODEL) if model_says else None
    data = Said(by="the data set's", **DATA)
    found, (note,) = resolve_preprocessing(config, model, data, channels=3)
    expected = {**NOBODY, **DATA, **(MODEL if model_says else {})}
    expected |= {name: USER[name] for name in typed}
    if expected["image_size"] is None and "crop_pct" not in typed:
        expected["crop_pct"] = 1.0
    assert {name: getattr(found, name) for name in USER} == expected
    assert note.startswith("preprocessing  mean ")


def test_the_line_says_whose_each_is():
    said = Said(
        by="the model's, timm",
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        **{"image_size": 224, "crop_pct": 0.95, "interpolation": "bicubic"},
    )
    data = Said(by="the data set's", **DATA)
    options = "override with --mean --std --image-size --crop-pct --interpolation"
    _, (note,) = resolve_preprocessing(DataConfig(), said, data, channels=3)
    assert note == (
        "preprocessing  mean .485,.456,.406, std .229,.224,.225, 224 px, crop .95, bicubic "
        f"(the model's, timm); {options}"
    )
    mine = DataConfig(mean=(0.5, 0.5, 0.5))
    _, (note,) = resolve_preprocessing(mine, said, data, channels=3, stored=(32, 48))
    assert note == (
        "preprocessing  mean .5,.5,.5 (yours); std .229,.224,.225 (the model's, timm); images as "
        f"stored, 32x48 px; the model's 224 px would enlarge them: --image-size 224; {options}"
    )


@pytest.mark.parametrize("side", [20, 63, 64, 65, 70, 71, 72, 300])
def test_nothing_is_enlarged_unasked(side):
    model, data = Said(by="the model's", **MODEL), Said(by="the data set's", **DATA)
    stored = (side, side + 10)
    found, _ = resolve_preprocessing(DataConfig(), model, data, channels=3, stored=stored)
    if side < 64:
        assert found.image_size is None
    else:
        assert found.image_size == 64
        resized = 64 / found.crop_pct
        # The model's own where there is enough, and otherwise as much as there is.
        assert resized == pytest.approx(min(side, 64 / 0.9))
    asked, _ = resolve_preprocessing(
        DataConfig(image_size=64), model, data, channels=3, stored=stored
    )
    assert asked.image_size == 64


def test_a_mean_for_other_channels_is_not_the_models_to_say():
    model, data = Said(by="the model's, timm", **MODEL), Said(by="d", mean=(0.2,), std=(0.3,))
    found, (note,) = resolve_preprocessing(DataConfig(), model, data, channels=1)
    assert (found.mean, found.std, found.image_size) == ((0.2,), (0.3,), 64)
    assert "the model's mean and std are for 3 channels, the images have 1" in note
    with pytest.raises(DataError, match=r"the images have 1 channels.*--mean --std"):
        resolve_preprocessing(DataConfig(mean=(0.5,) * 3), model, data, channels=1)
    with pytest.raises(DataError, match="positive std"):
        resolve_preprocessing(DataConfig(std=(0.0,)), model, data, channels=1)


def test_what_was_found_is_found_again():
    """A run records it, and asks the model no more."""
    model, data = Said(by="the model's", **MODEL), Said(by="the data set's", **DATA)
    for stored in (None, (20, 20), (66, 80), (300, 300)):
        found, _ = resolve_preprocessing(DataConfig(), model, data, channels=3, stored=stored)
        again, (note,) = resolve_preprocessing(
            found, None, data, channels=3, stored=stored, user="the run's"
        )
        assert again == found
        assert "override" not in note


def test_the_size_as_stored():
    class Files:
        def __init__(self, *sizes):
            self.sizes, self.labels = sizes, torch.zeros(len(sizes))

        def read(self, index):
            if self.sizes[index] is None:
                raise DataError("unreadable")
            return Image.new("RGB", self.sizes[index])

    assert size_as_stored(Files(*[(30, 20)] * 100)) == (20, 30)
    assert size_as_stored(Files((30, 20), None, (30, 20))) == (20, 30)
    assert size_as_stored(Files((30, 20), (20, 30))) is None
    assert size_as_stored(Files(None)) is None
    split = Split(torch.zeros(50, 3, 5, 7, dtype=torch.uint8), torch.zeros(50))

    class InMemory:
        labels = split.labels

        def read(self, index):
            return split.images[index]

    assert size_as_stored(InMemory()) == (5, 7)
