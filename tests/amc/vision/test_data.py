"""Splits that never overlap, augmentation against brute force, and faults with a remedy."""

import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from amc.config import DataConfig
from amc.errors import DataError
from amc.vision.data import ImageData, Split, stratified_indices
from amc.vision.sources import load_data

CLASSES = ("cat", "dog", "owl")
PER_CLASS = 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """60 training and 15 test images of 16x12, each of one colour that no other image has."""
    colour = 0
    for part, count in (("train", PER_CLASS), ("test", 5)):
        for name in CLASSES:
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(count):
                image = Image.new("RGB", (16, 12), (colour, 255 - colour, colour // 2))
                image.save(tmp_path / part / name / f"{index:02d}.png")
                colour += 1
    return tmp_path


def colours(split: Split) -> list[int]:
    return split.images[:, 0, 0, 0].tolist()


def data_of(images: torch.Tensor, crop_padding: int = 0, flip: bool = False) -> ImageData:
    split = Split(images, torch.zeros(len(images), dtype=torch.int64))
    channels = images.shape[1]
    return ImageData(
        name="test",
        classes=("only",),
        train=split,
        search_val=split,
        test=split,
        mean=(0.2, 0.4, 0.6)[:channels],
        std=(0.5, 0.25, 0.125)[:channels],
        crop_padding=crop_padding,
        flip=flip,
    )


def test_folder_splits_are_disjoint_stratified_and_seeded(folder: Path) -> None:
    config = DataConfig(spec=f"imagefolder:{folder}", search_val=0.2, seed=1)
    data = load_data(config, progress=False)
    assert data.classes == CLASSES
    assert [len(s) for s in (data.train, data.search_val, data.test)] == [48, 12, 15]
    seen = colours(data.train) + colours(data.search_val) + colours(data.test)
    assert sorted(seen) == list(range(75))
    assert Counter(data.search_val.labels.tolist()) == {0: 4, 1: 4, 2: 4}
    # The colour tells which class folder a training image came from.
    assert [c // PER_CLASS for c in colours(data.train)] == data.train.labels.tolist()
    assert data.train.images.shape == (48, 3, 12, 16)
    assert data.crop_padding == 1

    again = load_data(config, progress=False)
    other = load_data(config.model_copy(update={"seed": 2}), progress=False)
    assert colours(again.search_val) == colours(data.search_val)
    assert colours(other.search_val) != colours(data.search_val)
    default = load_data(DataConfig(spec=f"imagefolder:{folder}"), progress=False)
    assert len(default.search_val) == 6


def test_a_file_lists_search_val(folder: Path, tmp_path: Path) -> None:
    listing = tmp_path / "val.txt"
    listing.write_text("train/cat/03.png\ndog/00.png\n\ntrain/owl/19.png\n")
    config = DataConfig(spec=f"imagefolder:{folder}", search_val=str(listing))
    data = load_data(config, progress=False)
    assert colours(data.search_val) == [3, 20, 59]
    assert data.search_val.labels.tolist() == [0, 1, 2]
    assert len(data.train) == 57

    listing.write_text("train/cat/03.png\ntrain/cat/99.png\ntest/cat/00.png\n")
    with pytest.raises(DataError, match=r"2 of its 3 paths.*'train/cat/99\.png'"):
        load_data(config, progress=False)


def test_images_of_several_sizes_need_image_size(folder: Path) -> None:
    Image.new("RGB", (20, 40), (7, 7, 7)).save(folder / "train" / "dog" / "big.png")
    spec = f"imagefolder:{folder}"
    with pytest.raises(DataError, match=r"20x40.*16x12.*image_size"):
        load_data(DataConfig(spec=spec), progress=False)
    data = load_data(DataConfig(spec=spec, image_size=8), progress=False)
    assert data.train.images.shape[1:] == (3, 8, 8)


def test_image_size_resizes_the_shorter_side_and_crops_the_centre(tmp_path: Path) -> None:
    # Left quarter black, middle half white, right quarter black: the centre crop is all white.
    pixels = np.zeros((32, 64, 3), dtype=np.uint8)
    pixels[:, 16:48] = 255
    for part in ("train", "test"):
        (tmp_path / part / "one").mkdir(parents=True)
        for index in range(2):
            Image.fromarray(pixels).save(tmp_path / part / "one" / f"{index}.png")
    config = DataConfig(spec=f"imagefolder:{tmp_path}", image_size=16, search_val=0.5)
    data = load_data(config, progress=False)
    assert data.test.images.shape == (2, 3, 16, 16)
    assert data.test.images[:, :, :, 1:-1].eq(255).all()


def test_folder_faults_name_the_remedy(folder: Path, tmp_path: Path) -> None:
    (folder / "train" / "cat" / "00.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"00\.png \(not a readable image.*--max-corrupt"):
        load_data(DataConfig(spec=f"imagefolder:{folder}", max_corrupt=0), progress=False)
    (folder / "test" / "owl").rename(folder / "test" / "crow")
    with pytest.raises(DataError, match="crow, owl"):
        load_data(DataConfig(spec=f"imagefolder:{folder}"), progress=False)
    with pytest.raises(DataError, match="train and test"):
        load_data(DataConfig(spec=f"imagefolder:{tmp_path / 'train'}"), progress=False)
    (tmp_path / "empty" / "train").mkdir(parents=True)
    (tmp_path / "empty" / "val").mkdir()
    with pytest.raises(DataError, match="empty"):
        load_data(DataConfig(spec=f"imagefolder:{tmp_path / 'empty'}"), progress=False)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (DataConfig(spec="mnist"), "'mnist'.*imagefolder:DIR"),
        (DataConfig(spec="imagefolder:"), "imagefolder:DIR"),
        (DataConfig(search_val=1.5), "between 0 and 1"),
        (DataConfig(search_val=0.0001), "leaves a split empty"),
        (DataConfig(search_val="list.txt"), "give a fraction"),
        (DataConfig(mean=(0.5, 0.5, 0.5)), "1 channels"),
        (DataConfig(std=(0.0,)), "positive"),
    ],
)
def test_bad_settings_name_the_remedy(config: DataConfig, words: str) -> None:
    with pytest.raises(DataError, match=words):
        load_data(config, progress=False)


def test_digits_splits() -> None:
    data = load_data(DataConfig(seed=3, search_val="0.25"), progress=False)
    assert [len(s) for s in (data.train, data.search_val, data.test)] == [1078, 360, 359]
    assert data.train.images.shape[1:] == (1, 8, 8)
    # Sums over all images do not depend on how they were split: nothing is lost or doubled.
    sklearn = pytest.importorskip("sklearn.datasets").load_digits()
    total = sum(int(s.images.long().sum()) for s in (data.train, data.search_val, data.test))
    assert total == int(np.round(sklearn.images * 255 / 16).sum())
    for split in (data.search_val, data.test):
        shares = torch.bincount(split.labels) / len(split)
        assert (
            shares - torch.bincount(torch.from_numpy(sklearn.target)) / 1797
        ).abs().max() < 0.005
    other = load_data(DataConfig(seed=4), progress=False)
    assert not torch.equal(other.test.images, data.test.images)


def test_missing_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r"pip install amc-agent\[demo\]"):
        load_data(DataConfig(), progress=False)


def test_cifar10_is_read_through_torchvision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="download"):
        load_data(DataConfig(spec=f"cifar10:{tmp_path}"), progress=False)

    def fake(root: str, train: bool, download: bool) -> SimpleNamespace:
        assert (root, download) == (str(tmp_path), True)
        count = 50 if train else 10
        # Pixel value: row + 10 * channel.
        rows = np.arange(32)[None, :, None, None] + 10 * np.arange(3)[None, None, None, :]
        pixels = np.broadcast_to(rows, (count, 32, 32, 3)).astype(np.uint8)
        return SimpleNamespace(
            data=pixels, targets=[i % 10 for i in range(count)], classes=list("abcdefghij")
        )

    monkeypatch.setattr("torchvision.datasets.CIFAR10", fake)
    data = load_data(DataConfig(spec=f"cifar10:{tmp_path}", download=True), progress=False)
    assert [len(s) for s in (data.train, data.search_val, data.test)] == [45, 5, 10]
    assert data.train.images[0, 2, 7, 31] == 27
    assert (data.crop_padding, data.flip) == (4, True)


def test_normalise_by_hand() -> None:
    images = torch.randint(
        256, (4, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    data = data_of(images)
    expected = np.stack(
        [
            (images[:, c].numpy().astype(np.float64) / 255 - data.mean[c]) / data.std[c]
            for c in range(3)
        ],
        axis=1,
    )
    np.testing.assert_allclose(data.normalise(images).numpy(), expected, atol=1e-5)
    assert torch.equal(data.example(2), data.normalise(images[:2]))


def test_augment_draws_every_crop_and_mirror_alike() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(1, 256, (1, 3, 5, 4), dtype=torch.uint8, generator=generator)
    padded = functional.pad(image, (1, 1, 1, 1))[0]
    crops = {}
    for y in range(3):
        for x in range(3):
            crop = padded[:, y : y + 5, x : x + 4]
            crops[crop.numpy().tobytes()] = (y, x, False)
            crops[crop.flip(2).contiguous().numpy().tobytes()] = (y, x, True)
    count = 3600
    out = data_of(image, crop_padding=1, flip=True).augment(image.repeat(count, 1, 1, 1), generator)
    assert out.dtype == torch.uint8
    drawn = Counter(crops[one.contiguous().numpy().tobytes()] for one in out)
    # 18 outcomes of 200 each; five standard deviations are 69.
    assert len(drawn) == 18
    assert all(abs(times - count / 18) < 69 for times in drawn.values())


def test_augment_depends_on_its_generator_alone() -> None:
    images = torch.randint(
        256, (64, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    data = data_of(images, crop_padding=2, flip=True)
    torch.manual_seed(1)
    first = data.augment(images, torch.Generator().manual_seed(5))
    torch.manual_seed(2)
    assert torch.equal(first, data.augment(images, torch.Generator().manual_seed(5)))
    assert not torch.equal(first, data.augment(images, torch.Generator().manual_seed(6)))
    assert torch.equal(data_of(images).augment(images, torch.Generator()), images)


def test_stratified_indices_class_by_class() -> None:
    """The same draw, written as it is described; runs of earlier versions have these splits."""
    labels = torch.randint(9, (500,), generator=torch.Generator().manual_seed(1)) * 3
    order = torch.randperm(500, generator=torch.Generator().manual_seed(2))
    position = torch.empty(500, dtype=torch.float64)
    for label in labels.unique():
        members = order[labels[order] == label]
        position[members] = (torch.arange(len(members)).double() + 0.5) / len(members)
    expected = order[position[order].argsort(stable=True)[:77]].sort().values
    assert torch.equal(stratified_indices(labels, 77, torch.Generator().manual_seed(2)), expected)


@pytest.mark.parametrize("count", [0, 1, 7, 50, 111, 112])
def test_stratified_indices_are_proportional(count: int) -> None:
    labels = torch.tensor([0] * 16 + [1] * 32 + [2] * 64)
    chosen = stratified_indices(labels, count, torch.Generator().manual_seed(count))
    assert len(chosen) == len(set(chosen.tolist())) == count
    assert chosen.tolist() == sorted(chosen.tolist())
    for label, size in ((0, 16), (1, 32), (2, 64)):
        assert abs(int((labels[chosen] == label).sum()) - count * size / 112) <= 1
