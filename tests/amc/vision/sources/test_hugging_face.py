"""Data sets saved by Hugging Face's library, against what was saved."""

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amc.config import DataConfig
from amc.errors import DataError
from amc.vision.sources import load_data, open_source

datasets = pytest.importorskip("datasets")


def rows(count: int, first: int, grey: bool = False) -> dict[str, list]:
    """The image of a row has its number as its (first) colour."""
    numbers = range(first, first + count)
    images = [
        Image.new("L", (9, 8), n) if grey else Image.new("RGB", (9, 8), (n, 7, 9)) for n in numbers
    ]
    return {"id": list(numbers), "picture": images, "kind": [n % 3 for n in numbers]}


def save(folder: Path, label: object = None, **splits: dict[str, list]) -> str:
    features = datasets.Features(
        {
            "id": datasets.Value("int64"),
            "picture": datasets.Image(),
            "kind": label or datasets.ClassLabel(names=["x", "y", "z"]),
        }
    )
    made = {name: datasets.Dataset.from_dict(part, features) for name, part in splits.items()}
    datasets.DatasetDict(made).save_to_disk(str(folder))
    return f"huggingface:{folder}"


def numbers(split: object) -> list[int]:
    return split.take(torch.arange(len(split))).images[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_splits_and_columns_are_found(tmp_path: Path, cache: str) -> None:
    spec = save(tmp_path / "set", train=rows(30, 0), validation=rows(9, 40), test=rows(6, 60))
    source = open_source(DataConfig(spec=spec))
    assert (source.name, source.classes, source.channels) == ("set", ("x", "y", "z"), 3)
    assert source.counts == {"train": 30, "search_val": 9, "test": 6}
    data = load_data(DataConfig(spec=spec, cache=cache, data_workers=2), progress=False)
    assert numbers(data.train) == list(range(30))
    assert numbers(data.search_val) == list(range(40, 49))
    assert numbers(data.test) == list(range(60, 66))
    assert data.test.labels.tolist() == [n % 3 for n in range(60, 66)]
    assert data.train.take(torch.tensor([3])).images[0, :, 2, 5].tolist() == [3, 7, 9]
    assert "scored on validation" in data.notes[1]
    own = load_data(DataConfig(spec=spec, search_val=0.2, cache=cache), progress=False)
    assert sorted(numbers(own.train) + numbers(own.search_val)) == list(range(30))


def test_validation_is_the_test_split_where_there_is_no_other(tmp_path: Path) -> None:
    two = save(tmp_path / "two", train=rows(30, 0), validation=rows(9, 40))
    assert numbers(load_data(DataConfig(spec=two), progress=False).test) == list(range(40, 49))
    hidden = rows(6, 60) | {"kind": [-1] * 6}
    spec = save(tmp_path / "hidden", train=rows(30, 0), validation=rows(9, 40), test=hidden)
    data = load_data(DataConfig(spec=spec), progress=False)
    assert numbers(data.test) == list(range(40, 49))
    assert (len(data.train), len(data.search_val)) == (27, 3)
    assert "hidden" in data.notes[1]


def test_grey_images_have_one_channel_and_words_can_be_labels(tmp_path: Path) -> None:
    words = {"kind": ["b", "a", "c"] * 10}
    spec = save(
        tmp_path / "grey",
        datasets.Value("string"),
        train=rows(30, 0, grey=True) | words,
        test=rows(30, 40, grey=True) | words,
    )
    with pytest.raises(DataError, match=r"one must be a datasets\.ClassLabel, or be named"):
        open_source(DataConfig(spec=spec))
    loaded = datasets.load_from_disk(str(tmp_path / "grey")).rename_column("kind", "label")
    loaded.save_to_disk(str(tmp_path / "named"))
    data = load_data(DataConfig(spec=f"huggingface:{tmp_path / 'named'}"), progress=False)
    assert data.classes == ("a", "b", "c")
    assert data.test.labels[:3].tolist() == [1, 0, 2]
    assert data.example().shape == (1, 1, 8, 9)
    assert (data.mean, data.flip) == ((0.5,), False)


def test_damaged_images_and_faults_of_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "png")
    train = rows(30, 0)
    train["picture"][4] = {"bytes": file.getvalue()[:50], "path": None}
    train["picture"][5] = None
    data = load_data(
        DataConfig(spec=save(tmp_path / "set", train=train, test=rows(3, 40))), progress=False
    )
    assert sorted(data.skipped.names) == [f"{tmp_path / 'set' / 'train'}[{i}]" for i in (4, 5)]
    with pytest.raises(DataError, match=r"has the splits test, valid; it must have train"):
        open_source(DataConfig(spec=save(tmp_path / "bad", test=rows(3, 0), valid=rows(3, 0))))
    with pytest.raises(DataError, match="no such folder"):
        open_source(DataConfig(spec=f"huggingface:{tmp_path / 'none'}"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="save_to_disk"):
        open_source(DataConfig(spec=f"huggingface:{tmp_path / 'empty'}"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install amc-agent\[huggingface\]"):
        open_source(DataConfig(spec="huggingface:x"))
