"""Images from disk, against the same images in memory."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

from amc.config import DataConfig
from amc.errors import DataError
from amc.vision.data import ImageData, Split
from amc.vision.geometry import Geometry
from amc.vision.skipped import Skipped
from amc.vision.sources import load_data
from amc.vision.stored import Arrays
from amc.vision.streaming import Reader, StreamedSplit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 training and 90 test images of noise, of several sizes."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, count in (("train", 100), ("test", 30)):
        for name in ("a", "b", "c"):
            (root / part / name).mkdir(parents=True)
            for index in range(count):
                height, width = rng.integers(12, 24, 2)
                noise = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(noise).save(root / part / name / f"{index:03d}.png")
    return root


def read(folder: Path, **settings: object) -> ImageData:
    config = DataConfig(spec=f"imagefolder:{folder}", image_size=8, crop_pct=0.8, **settings)
    return load_data(config, progress=False)


def read_all(data: ImageData) -> None:
    for split in (data.train, data.search_val, data.test):
        list(split.batches(torch.arange(len(split)).split(16)))


def same(first: Split, second: Split) -> bool:
    return torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_streamed_batches_are_those_in_memory(folder: Path, workers: int) -> None:
    memory, disk = read(folder), read(folder, cache="disk", data_workers=workers)
    assert isinstance(memory.train, Split)
    assert isinstance(disk.test, StreamedSplit)
    order = torch.randperm(270, generator=torch.Generator().manual_seed(0))
    state = torch.get_rng_state()
    for name in ("train", "search_val", "test"):
        one, other = getattr(memory, name), getattr(disk, name)
        assert torch.equal(one.labels, other.labels)
        assert same(one.take(torch.arange(len(one))), other.take(torch.arange(len(one))))
    batches = zip(
        memory.train.batches(order.split(50)),
        disk.train.batches(iter(order.split(50))),
        strict=True,
    )
    assert all(same(one, other) for one, other in batches)
    assert torch.equal(memory.example(3), disk.example(3))
    assert torch.equal(torch.get_rng_state(), state)
    assert len(disk.train.take(torch.arange(0))) == 0


def test_the_reading_processes_end_with_an_abandoned_epoch(folder: Path) -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    if not children.exists():
        pytest.skip("needs Linux")
    split = read(folder, cache="disk", data_workers=2).train
    before = set(children.read_text().split())
    batches = split.batches(torch.arange(len(split)).split(8))
    next(batches)
    assert len(set(children.read_text().split()) - before) == 2
    batches.close()
    assert set(children.read_text().split()) <= before


def test_unreadable_images_are_skipped_and_counted(folder: Path, tmp_path: Path) -> None:
    damaged = ["train/a/000.png", "train/b/007.png", "train/c/041.png", "test/b/003.png"]
    for path in folder.rglob("*.png"):
        relative = path.relative_to(folder).as_posix()
        (tmp_path / relative).parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes()
        (tmp_path / relative).write_bytes(data[:60] if relative in damaged else data)
    whole, memory = read(folder), read(tmp_path)
    assert set(memory.skipped.names) == {str(tmp_path / path) for path in damaged}
    assert "4 images cannot be read and are left out" in memory.notes[-1]
    total = sum(len(getattr(memory, name)) for name in ("train", "search_val", "test"))
    assert total == 390 - len(damaged)
    assert memory.notes[0].startswith(
        f"{len(memory.train)} train, {len(memory.search_val)} search-val, 89 test images, in memory"
    )

    disk = read(tmp_path, cache="disk", data_workers=2)
    seen = [list(s.batches(torch.arange(len(s)).split(16))) for s in (disk.train, disk.test)]
    for batches, name in zip(seen, ("train", "test"), strict=True):
        images = torch.cat([batch.images for batch in batches])
        assert torch.equal(images, getattr(memory, name).images)
        there = {image.numpy().tobytes() for image in getattr(whole, name).images}
        assert {image.numpy().tobytes() for image in images} < there
    disk.search_val.take(torch.arange(len(disk.search_val)))
    assert set(disk.skipped.names) == set(memory.skipped.names)
    for _ in disk.train.batches([torch.arange(len(disk.train))]):  # once more: counted once
        pass
    assert len(disk.skipped) == 4
    met_later = disk.skipped.news()
    assert len(met_later) == 1
    assert disk.skipped.news() == ()

    with pytest.raises(DataError, match=r"4 images cannot be read.*\.\.\..*--max-corrupt"):
        read(tmp_path, max_corrupt=3)
    late = read(tmp_path, max_corrupt=2, cache="disk", data_workers=1)
    with pytest.raises(DataError, match=r"3 images cannot be read, more than --max-corrupt 2"):
        read_all(late)


@dataclass(frozen=True)
class Deadly(Arrays):
    """Ends the process that reads the image number 20, if that is not the test's own."""

    def read(self, index: int) -> Tensor:
        if index == 20 and get_worker_info() is not None:
            os._exit(7)
        return super().read(index)


def test_a_process_that_dies_is_an_error_of_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    handler = signal.getsignal(signal.SIGCHLD)
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)  # seconds
    stored = Deadly(torch.zeros(64, 1, 2, 2, dtype=torch.uint8), torch.zeros(64, dtype=torch.int64))
    reader = Reader(stored, Geometry(), torch.Size((1, 2, 2)))
    split = StreamedSplit(reader, torch.arange(64), 2, Skipped(0))
    with pytest.raises(DataError, match=r"^a process that reads images died .*--data-workers 0\)$"):
        list(split.batches(torch.arange(64).split(4)))
    assert signal.getsignal(signal.SIGCHLD) is handler
    alone = StreamedSplit(reader, torch.arange(64), 0, Skipped(0))
    assert sum(len(batch) for batch in alone.batches(torch.arange(64).split(4))) == 64


def test_sizes_that_differ_are_found_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        for index in range(200):
            side = 9 if (part, index) == ("train", 1) else 8
            Image.new("L", (side, 8)).save(tmp_path / part / "a" / f"{index:03d}.png")
    config = DataConfig(spec=f"imagefolder:{tmp_path}", cache="disk", data_workers=1)
    data = load_data(config, progress=False)
    with pytest.raises(DataError, match=r"^\S+001\.png: 9x8 pixels.* 8x8; set image_size"):
        read_all(data)
