"""What a recipe leaves open."""

from __future__ import annotations

import pytest

from amc.config import FinetuneConfig
from amc.training.recipe import completed, epoch_steps, total_steps


@pytest.mark.parametrize(
    ("images", "batch"), [(10, 16), (200, 16), (600, 32), (1300, 64), (2048, 128), (50_000, 128)]
)
def test_small_data_sets_have_small_batches(images: int, batch: int) -> None:
    config, notes = completed(FinetuneConfig(), images)
    assert config.batch_size == batch
    assert bool(notes) == (batch != 128)
    assert completed(FinetuneConfig(batch_size=100), images)[0].batch_size == 100


def test_about_a_twentieth_of_the_training_is_averaged() -> None:
    config, _ = completed(FinetuneConfig(epochs=10, batch_size=100), 10_000)
    assert total_steps(config, 10_000) == 1000
    assert 1 / (1 - (config.ema or 0)) == pytest.approx(50)
    assert completed(FinetuneConfig(ema=0.5), 10)[0].ema == 0.5
    assert completed(FinetuneConfig(epochs=1, batch_size=100), 100)[0].ema == 0.0


def test_steps() -> None:
    config = FinetuneConfig(epochs=3, batch_size=50)
    assert epoch_steps(config, 101) == 3
    assert total_steps(config, 101) == 9
    assert total_steps(config.model_copy(update={"max_steps": 5}), 101) == 5
