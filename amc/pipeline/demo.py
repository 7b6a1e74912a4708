"""The demo's network and settings: everything it needs is embedded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from amc.config import DataConfig, EvaluateConfig, FinetuneConfig, ModelConfig
from amc.models.factory import build_model
from amc.task import Step
from amc.training.finetune import finetune
from amc.vision.sources import load_data

# A third of the few training images is held out, so that the reward can tell plans apart.
DEMO_DATA = DataConfig(spec="digits", search_val=0.3)
DEMO_EVALUATE = EvaluateConfig(images=500, calibration_images=500)
DEMO_TRAINING = FinetuneConfig(epochs=30, lr=0.1, batch_size=64, distill_weight=0)
DEMO_RECIPE = FinetuneConfig(epochs=15, lr=0.02, batch_size=64)


def train_dense(
    folder: Path, seed: int, on_step: Callable[[Step], None] | None = None
) -> ModelConfig:
    """Train ``amc:smallcnn`` on the digits and save its weights in ``folder``."""
    data = load_data(DEMO_DATA, progress=False)
    torch.manual_seed(seed)
    model = build_model(ModelConfig(spec="amc:smallcnn"))
    recipe: dict[str, Any] = {"seed": seed}
    finetune(model, data, DEMO_TRAINING.model_copy(update=recipe), teacher=None, on_step=on_step)
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "demo-smallcnn.safetensors"
    save_file(model.state_dict(), weights)
    return ModelConfig(spec="amc:smallcnn", weights=str(weights))
