"""What is held out: classes that have few images, and folders of other images."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from amc.config import DataConfig
from amc.errors import DataError
from amc.vision.sources import load_data
from amc.vision.splits import hold_out
from amc.vision.stored import Arrays


def stored(counts: list[int]) -> Arrays:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return Arrays(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_every_class_keeps_an_image_for_training(fraction: float) -> None:
    images = stored([1, 2, 3, 50])
    train, held_out = hold_out(images, fraction, seed=0)
    assert sorted([*train.tolist(), *held_out.tolist()]) == list(range(56))
    assert set(images.labels[train].tolist()) == {0, 1, 2, 3}
    assert 0 not in images.labels[held_out]
    assert abs(len(held_out) - 56 * fraction) <= 3.5


def test_only_images_of_their_own_leave_nothing_for_search_val() -> None:
    with pytest.raises(DataError, match="leaves a split empty"):
        hold_out(stored([1, 1, 1, 1]), 0.5, seed=0)


def write(folder: Path, red: int, classes: str = "ab", count: int = 3) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (8, 8), (red, index, 0)).save(folder / name / f"{index}.png")


def test_search_val_may_be_a_folder_of_other_images(tmp_path: Path) -> None:
    write(tmp_path / "train", 1)
    write(tmp_path / "test", 2)
    write(tmp_path / "val", 3, count=2)
    spec = f"imagefolder:{tmp_path}"
    config = DataConfig(spec=spec, search_val=str(tmp_path / "val"))
    data = load_data(config, progress=False)
    assert [len(s) for s in (data.train, data.search_val, data.test)] == [6, 4, 6]
    for split, red in ((data.train, 1), (data.search_val, 3), (data.test, 2)):
        assert split.take(torch.arange(len(split))).images[:, 0].eq(red).all()
    assert data.search_val.labels.tolist() == [0, 0, 1, 1]
    assert data.notes == ("6 train, 4 search-val, 6 test images, in memory (0.0 GB)",)

    drawn = load_data(DataConfig(spec=spec, search_val=0.2), progress=False)
    assert len(drawn.train) + len(drawn.search_val) == 6
    unused = load_data(DataConfig(spec=spec, search_val=None, cache="disk"), progress=False)
    assert f"--search-val {tmp_path / 'val'}" in unused.notes[1]
    assert unused.notes[2] == "search-val has no image of 1 class: b"

    write(tmp_path / "other", 3, classes="ac")
    with pytest.raises(DataError, match=r"other: its classes differ .*\(b, c\)"):
        load_data(DataConfig(spec=spec, search_val=str(tmp_path / "other")), progress=False)


def test_digits_are_scored_on_a_folder_too(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    write(tmp_path, 255, classes="0123456789", count=1)
    data = load_data(DataConfig(search_val=str(tmp_path)), progress=False)
    assert len(data.train) == 1797 - len(data.test)
    assert data.search_val.take(torch.arange(10)).images.shape == (10, 1, 8, 8)
