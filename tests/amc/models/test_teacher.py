"""Teachers from files: built for the images, refused with a remedy."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from amc.config import ModelConfig
from amc.errors import ConfigError, ModelError, WeightsError
from amc.models.architectures import NETWORKS
from amc.models.teacher import teacher_model

USERS = """
import torch
from torch import nn

def seven():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
"""


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    save_file(NETWORKS["smallcnn"]().state_dict(), tmp_path / "big.safetensors")
    return tmp_path / "big.safetensors"


def test_weights_stand_behind_an_at() -> None:
    assert ModelConfig.of("amc:resnet20@a@b.pth") == ModelConfig(
        spec="amc:resnet20", weights="a@b.pth"
    )
    assert ModelConfig.of("amc:resnet20") == ModelConfig.of("amc:resnet20@")
    assert ModelConfig.of("amc:resnet20").weights is None


def test_a_teacher_has_the_weights_of_its_file(weights: Path) -> None:
    torch.manual_seed(3)
    expected = NETWORKS["smallcnn"]()
    images = torch.randn(2, 1, 8, 8)
    teacher = teacher_model(f"amc:smallcnn@{weights}", 10, 1, example=images)
    assert not teacher.training
    torch.testing.assert_close(teacher(images), expected.eval()(images))


def test_a_teacher_that_cannot_teach_is_refused(weights: Path, tmp_path: Path) -> None:
    for spec in ("amc:smallcnn", "amc:smallcnn@"):
        with pytest.raises(ConfigError, match=r"not trained.*; write amc:smallcnn@FILE\.safetens"):
            teacher_model(spec, 10, 1)
    with pytest.raises(WeightsError, match=r"^teacher amc:smallcnn for 7 classes and 1 channels:"):
        teacher_model(f"amc:smallcnn@{weights}", 7, 1)
    with pytest.raises(ModelError, match="fails on images of shape"):
        teacher_model(f"amc:smallcnn@{weights}", 10, 1, example=torch.zeros(2, 3, 8, 8))
    (tmp_path / "own.py").write_text(USERS)
    own = f"{tmp_path / 'own.py'}:seven"
    assert teacher_model(own, 7, 1, example=torch.zeros(2, 1, 8, 8))
    with pytest.raises(ConfigError, match=r"\(2, 7\) for 2 images, but there are 10 classes; take"):
        teacher_model(own, 10, 1, example=torch.zeros(2, 1, 8, 8))
