"""Lists of files, against torchvision's."""

from pathlib import Path

import pytest
from torchvision.datasets import ImageFolder

from amc.errors import DataError
from amc.vision.image_files import class_names, list_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    paths = ["b/2.png", "b/10.JPG", "b/sub/1.jpeg", "b/sub-2/0.png", "a/é x.webp", "c c/z.tif"]
    for path in [*paths, "b/notes.txt", "c c/y.pgm"]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "LICENSE").touch()
    return tmp_path


def test_order_and_labels_are_torchvisions(folder: Path) -> None:
    theirs = ImageFolder(str(folder))
    classes = class_names(folder)
    ours = list_files(folder, classes)
    assert classes == tuple(theirs.classes)
    assert ours.labels.tolist() == theirs.targets
    assert [ours.name(i) for i in range(len(ours.labels))] == [path for path, _ in theirs.samples]
    relative = [Path(path).relative_to(folder.parent).as_posix() for path, _ in theirs.samples]
    assert list(ours.paths()) == relative


def test_hidden_files_and_folders_are_no_images(folder: Path) -> None:
    before = list(list_files(folder, class_names(folder)).paths())
    for path in (".ipynb_checkpoints/x.png", "b/.hidden/x.png", "b/._2.png", ".DS_Store"):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).touch()
    assert list(list_files(folder, class_names(folder)).paths()) == before


def test_faults_name_the_folder(folder: Path, tmp_path: Path) -> None:
    classes = class_names(folder)
    (folder / "a" / "é x.webp").unlink()
    with pytest.raises(DataError, match=r"/a: the class has no image.*remove the folder"):
        list_files(folder, classes)
    with pytest.raises(DataError, match=r"classes differ.*\(d\)"):
        list_files(folder, (*classes, "d"))
    with pytest.raises(DataError, match="gone: cannot be read"):
        class_names(tmp_path / "gone")
