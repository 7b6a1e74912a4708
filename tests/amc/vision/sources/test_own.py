"""A user's data sets: what is taken, and what is refused with a remedy."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from amc.cli.commands.shared import images
from amc.cli.given import Given
from amc.config import DataConfig, ModelConfig, SearchConfig
from amc.errors import ConfigError, DataError, ModelError
from amc.pipeline.opening import open_task
from amc.records.run_folder import RunFolder
from amc.utils.settings import save_toml
from amc.vision.data import Split
from amc.vision.sources import load_data
from amc.vision.sources.own import data_from

COUNT = 24
PIXELS = torch.randint(
    256, (COUNT, 3, 6, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
)
LABELS = torch.arange(COUNT) % 4


class Items(Dataset):
    """``form`` makes an image of a tensor; what is drawn at random is added to it."""

    def __init__(self, form, noise=False, shift=0):
        self.form, self.noise, self.shift = form, noise, shift
        self.read = []

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        self.read.append(index)
        image = PIXELS[index]
        if self.noise:
            image = torch.randint(256, image.shape, dtype=torch.uint8)
        return self.form(image), int(LABELS[index]) + self.shift


def as_pillow(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def normalised(image):
    return image / 127.5 - 1


def everything(split) -> Split:
    return split.take(torch.arange(len(split)))


@pytest.mark.parametrize("cache", ["memory", "disk"])
@pytest.mark.parametrize("form", [as_pillow, lambda image: image, lambda image: image / 255])
def test_images_of_every_form_arrive_as_they_are(form, cache) -> None:
    config = DataConfig(spec="mine", cache=cache, data_workers=2)
    loader = DataLoader(Items(form), batch_size=7, shuffle=True)
    data = data_from(loader, Items(form), config=config, progress=False)
    assert torch.equal(everything(data.test).images, PIXELS)
    assert torch.equal(data.test.labels, LABELS)
    both = torch.cat([everything(data.train).images, everything(data.search_val).images])
    assert sorted(image.sum() for image in both) == sorted(image.sum() for image in PIXELS)
    assert data.classes == ("0", "1", "2", "3")


def test_labels_that_are_listed_are_not_read() -> None:
    test = Items(as_pillow)
    listed = Items(as_pillow)
    listed.targets = LABELS.tolist()
    listed.classes = ["w", "x", "y", "z"]
    subset = Subset(listed, range(0, COUNT, 2))
    data = data_from(subset, TensorDataset(PIXELS, LABELS), listed, progress=False)
    assert torch.equal(data.train.labels, LABELS[::2])
    assert torch.equal(everything(data.search_val).images, PIXELS)
    wrong = Items(as_pillow, shift=1)
    wrong.targets = LABELS.tolist()  # as with a target_transform
    data = data_from(wrong, test, progress=False)
    assert sorted(set(data.train.labels.tolist())) == [1, 2, 3, 4]


def test_grey_images_have_one_channel() -> None:
    grey = Items(lambda image: as_pillow(image).convert("L"))
    data = data_from(grey, grey, progress=False)
    assert data.example().shape == (1, 1, 6, 5)
    assert not data.flip


def test_what_a_data_set_draws_is_the_same_whoever_reads_it() -> None:
    read = []
    for workers in (0, 1, 3):
        config = DataConfig(spec="mine", cache="disk", data_workers=workers)
        noise = Items(as_pillow, noise=True)
        data = data_from(noise, noise, config=config, progress=False)
        state = torch.get_rng_state()
        read.append(torch.cat([b.images for b in data.test.batches(torch.arange(COUNT).split(5))]))
        assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(read[0], read[1])
    assert torch.equal(read[0], read[2])
    assert not torch.equal(read[0][0], read[0][1])


class Endless(IterableDataset):
    def __iter__(self):
        return iter(())


@pytest.mark.parametrize(
    ("train", "words"),
    [
        (Items(normalised), r"own train\[\d+\]: .*before they are normalised"),
        (Items(lambda image: image.long()), "torch.int64 from"),
        (Items(lambda image: image[0].unsqueeze(0).unsqueeze(0)), r"Tensor \(1, 1, 6, 5\); return"),
        (Items(lambda _: "name"), "its image is str"),
        (Items(as_pillow, shift=-1), "label -1"),
        (Endless(), "is Endless; it must be a torch.utils.data.Dataset"),
        ([PIXELS], r"train\[0\]: must be \(image, label\)"),
        (TensorDataset(PIXELS, LABELS / 2), "whole number"),
        (7, "is int"),
        ([], "no items"),
    ],
)
def test_other_things_are_refused(train, words) -> None:
    with pytest.raises(DataError, match=words):
        data_from(train, TensorDataset(PIXELS, LABELS), progress=False)


def test_items_that_fail_are_skipped() -> None:
    def form(image):
        if any(torch.equal(image, PIXELS[index]) for index in (3, 8)):
            raise OSError("broken\npipe")
        return image

    broken = Items(form)
    broken.targets = LABELS.tolist()
    data = data_from(broken, TensorDataset(PIXELS, LABELS), progress=False)
    assert len(data.train) + len(data.search_val) == COUNT - 2
    assert "own train[3] (OSError: broken)" in data.notes[-1]
    with pytest.raises(DataError, match="attribute targets"):
        data_from(Items(form), broken, progress=False)


FILE = """
import torch
from torch.utils.data import TensorDataset, random_split

PIXELS = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)

def three():
    whole = TensorDataset(PIXELS, torch.arange(40) % 2)
    return random_split(whole, [20, 12, 8])

def named():
    train, test = random_split(TensorDataset(PIXELS, torch.arange(40) % 2), [20, 20])
    return {"train": train, "test": test, "classes": ["even", "odd"]}

def wrong():
    return {"training": 1}

def failing():
    raise KeyError("x")
"""


def test_a_file_that_only_another_file_names_is_not_run(tmp_path: Path) -> None:
    spec = f"{tmp_path / 'data.py'}:load"
    (tmp_path / "data.py").write_text("raise SystemExit('was run')")
    with pytest.raises(ConfigError, match=r"--config names .*data\.py:load.*--data"):
        images(Given({}, file={"data": {"spec": spec}}))
    assert images(Given({}, file={"data": {"spec": "digits"}})).spec == "digits"
    run = RunFolder(tmp_path)
    model = ModelConfig(spec="amc:smallcnn")
    config = SearchConfig(model=model, data=DataConfig(spec=spec), budget={"macs": 0.5})
    save_toml(config, run.config)
    with pytest.raises(ModelError, match=r"config\.toml names .*data\.py:load.*--allow-factory"):
        open_task(run)


def test_a_function_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pictures.py"
    path.write_text(FILE)
    torch.manual_seed(1)
    first = load_data(DataConfig(spec=f"{path}:three"), progress=False)
    torch.manual_seed(2)
    again = load_data(DataConfig(spec=f"{path}:three", cache="disk"), progress=False)
    other = load_data(DataConfig(spec=f"{path}:three", seed=1), progress=False)
    assert [len(s) for s in (first.train, first.test, first.search_val)] == [20, 12, 8]
    assert torch.equal(everything(first.train).images, everything(again.train).images)
    assert not torch.equal(everything(first.train).images, everything(other.train).images)
    named = load_data(DataConfig(spec=f"{path}:named"), progress=False)
    assert (named.name, named.classes) == ("pictures", ("even", "odd"))
    assert [len(s) for s in (named.train, named.search_val, named.test)] == [18, 2, 20]
    for function, words in (
        ("wrong", r"returned \['training'\]; it must return"),
        ("failing", "raised KeyError: 'x'"),
        ("nmaed", "has no function 'nmaed'; it has: named"),
    ):
        with pytest.raises(DataError, match=words):
            load_data(DataConfig(spec=f"{path}:{function}"), progress=False)
    with pytest.raises(DataError, match="no such file"):
        load_data(DataConfig(spec="gone.py:f"), progress=False)
