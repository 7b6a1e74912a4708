"""What several tests of the command line share."""

import pytest
import torch
from safetensors.torch import save_file

from amc.config import ModelConfig
from amc.models.factory import build_model


@pytest.fixture
def weights(tmp_path):
    """A file of weights for ``amc:smallcnn``."""
    torch.manual_seed(0)
    path = tmp_path / "small.safetensors"
    save_file(build_model(ModelConfig(spec="amc:smallcnn")).state_dict(), path)
    return str(path)
