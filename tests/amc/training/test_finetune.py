"""Recovery training: real learning, never worse than its beginning, and exact when resumed."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amc.config import DataConfig, FinetuneConfig
from amc.errors import DataError, EvaluationError, RunError
from amc.models.architectures import NETWORKS
from amc.task import Epoch, Finetuned, Step
from amc.training import run as module
from amc.training.finetune import finetune, unfinished
from amc.vision.data import ImageData, Split
from amc.vision.inference import accuracy
from amc.vision.sources import load_data

State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load_data(DataConfig(), progress=False)


@pytest.fixture(scope="module")
def few(digits: ImageData) -> ImageData:
    """200 training images: epochs of a few milliseconds."""
    return ImageData(**{**vars(digits), "train": digits.train.take(torch.arange(200))})


@pytest.fixture(autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fresh(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return NETWORKS["smallcnn"]()


def state_of(model: nn.Module) -> State:
    return copy.deepcopy(model.state_dict())


def same(one: State, other: State) -> bool:
    return all(torch.equal(one[name], tensor) for name, tensor in other.items())


def mislabelled(data: ImageData) -> ImageData:
    wrong = data.train.take(torch.arange(len(data.train)))
    return ImageData(**{**vars(data), "train": Split(wrong.images, (wrong.labels + 1) % 10)})


@pytest.fixture(scope="module")
def trained(digits: ImageData) -> nn.Module:
    model = fresh()
    finetune(model, digits, FinetuneConfig(epochs=6, lr=0.1, batch_size=64), teacher=None)
    return model


def test_training_learns_the_digits(digits: ImageData) -> None:
    model, epochs, steps = fresh(), [], []
    told: list[str] = []
    found = finetune(
        model,
        digits,
        FinetuneConfig(epochs=6),
        teacher=None,
        on_epoch=epochs.append,
        on_step=steps.append,
        on_note=told.append,
    )
    assert found.epochs == tuple(epochs)
    assert [epoch.number for epoch in epochs] == [1, 2, 3, 4, 5, 6]
    assert found.kept in ("last", "ema")
    assert accuracy(model, digits, digits.test) > 0.94
    assert accuracy(model, digits, digits.search_val) == max(found.accuracies.values())
    assert epochs[-1].train_loss < 0.3 * epochs[0].train_loss
    assert epochs[-1].train_accuracy is not None
    total = 6 * math.ceil(len(digits.train) / (found.recipe.batch_size or 0))
    assert [(step.done, step.total) for step in steps] == [(n + 1, total) for n in range(total)]
    assert any(text.startswith("learning rate") for text in told)
    assert any(text.startswith("batches of") for text in told)
    assert found.recipe.lr is not None
    assert not model.training
    assert all(p.is_contiguous() for p in model.parameters())


def test_a_student_learns_from_its_teacher_alone(digits: ImageData, trained: nn.Module) -> None:
    # Labels of the wrong class everywhere: with weight 1 only the teacher counts.
    before, student = state_of(trained), fresh(1)
    config = FinetuneConfig(epochs=6, lr=0.1, batch_size=32, distill_weight=1)
    found = finetune(student, mislabelled(digits), config, teacher=trained)
    assert max(found.accuracies.values()) > 0.9
    assert set(found.epochs[-1].losses) == {"labels", "kd"}
    assert same(before, trained.state_dict())


def test_a_rate_of_ours_that_harms_is_lowered(
    digits: ImageData, trained: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "try_rates", lambda *_, **__: (3.0, "drawn from a hat"))
    monkeypatch.setattr(module, "_RETRY_FACTOR", 0.01)
    model, notes = copy.deepcopy(trained), []
    config = FinetuneConfig(epochs=2, batch_size=64)
    found = finetune(model, digits, config, teacher=None, on_note=notes.append)
    assert any("worse than it began; it begins again with" in n or "diverged" in n for n in notes)
    assert (found.recipe.lr or 1) < 0.1
    assert max(found.accuracies.values()) >= found.accuracies["pruned"]


@pytest.mark.parametrize("lr", [None, 0.05, 2.0])
def test_what_harms_is_not_kept(digits: ImageData, trained: nn.Module, lr: float | None) -> None:
    model = copy.deepcopy(trained)
    found = finetune(
        model, mislabelled(digits), FinetuneConfig(epochs=2, lr=lr, batch_size=64), teacher=None
    )
    assert found.kept == "pruned"
    assert found.accuracies["pruned"] == max(found.accuracies.values())
    assert same(trained.state_dict(), model.state_dict())


def test_same_seed_same_bits(few: ImageData) -> None:
    states = []
    for seed, noise in ((0, 1), (0, 2), (1, 1)):
        # The dropout draws from PyTorch's global generator.
        model, teacher = nn.Sequential(nn.Dropout(0.2), fresh()), fresh(5)
        torch.manual_seed(noise)
        state = torch.random.get_rng_state()
        finetune(model, few, FinetuneConfig(epochs=2, batch_size=50, seed=seed), teacher=teacher)
        assert torch.equal(torch.random.get_rng_state(), state)
        states.append(model.state_dict())
    assert same(states[0], states[1])
    assert not torch.equal(states[0]["1.conv1.weight"], states[2]["1.conv1.weight"])


def test_no_epochs_change_nothing(few: ImageData) -> None:
    model = fresh()
    before = state_of(model)
    found = finetune(model, few, FinetuneConfig(epochs=0), teacher=None)
    assert (found.epochs, found.kept) == ((), "pruned")
    assert same(before, model.state_dict())


def test_steps_end_where_they_are_told_to(few: ImageData) -> None:
    steps: list[Step] = []
    config = FinetuneConfig(epochs=9, max_steps=7, batch_size=50, lr=0.01)
    found = finetune(fresh(), few, config, teacher=None, on_step=steps.append)
    assert [step.done for step in steps] == list(range(1, 8))
    assert [epoch.steps for epoch in found.epochs] == [4, 7]


def test_a_rate_that_was_asked_for_and_diverges_is_an_error(few: ImageData) -> None:
    model = fresh()
    before = state_of(model)
    config = FinetuneConfig(epochs=2, lr=1e30, warmup_epochs=0, batch_size=20)
    with pytest.raises(EvaluationError, match="lower lr"):
        finetune(model, few, config, teacher=None)
    assert same(before, model.state_dict())


def test_a_rate_of_ours_that_diverges_is_lowered(
    few: ImageData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "try_rates", lambda *_, **__: (1e30, "drawn from a hat"))
    monkeypatch.setattr(module, "_RETRY_FACTOR", 1e-32)
    notes: list[str] = []
    config = FinetuneConfig(epochs=2, warmup_epochs=0, batch_size=20)
    found = finetune(fresh(), few, config, teacher=None, on_note=notes.append)
    assert found.recipe.lr == pytest.approx(0.01)
    assert any("diverged; it begins again with learning rate 0.01" in note for note in notes)


def test_one_image_is_too_few(few: ImageData) -> None:
    one = ImageData(**{**vars(few), "train": few.train.take(torch.arange(1))})
    with pytest.raises(DataError, match="at least two"):
        finetune(fresh(), one, FinetuneConfig(epochs=1), teacher=None)


def test_patience_ends_with_the_best_epoch(digits: ImageData, trained: nn.Module) -> None:
    # What is learned from wrong labels gets worse, epoch by epoch.
    model = fresh(3)
    data = ImageData(**{**vars(digits), "train": mislabelled(digits).train})
    config = FinetuneConfig(epochs=40, lr=0.05, batch_size=64, patience=2)
    found = finetune(model, data, config, teacher=None)
    seen = [max(e.search_val_accuracy or 0, e.ema_accuracy or 0) for e in found.epochs]
    assert len(seen) < 40
    assert max(seen[-2:]) <= max(seen[:-2])
    assert found.accuracies["best"] == max(seen)
    assert max(found.accuracies.values()) == pytest.approx(
        accuracy(model, digits, digits.search_val)
    )
    assert trained is not model


class _StopError(Exception):
    pass


RECIPES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "adamw": {"optimizer": "adamw", "lr": 0.002, "schedule": "one-cycle"},
    "everything": {
        "lr": 0.05,
        "schedule": "linear",
        "label_smoothing": 0.1,
        "clip_norm": 1.0,
        "patience": 3,
        "augment": ("crop", "rotation", "alternating-flip"),
        "mix": (0.3, 0.3),
        "distill": ("dkd", "features"),
        "distill_temperature": (10, 2),
        "freeze": ("1.conv1",),
        "unfreeze_epoch": 1,
    },
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("damage", ["none", "torn", "garbage"])
def test_an_interrupted_training_ends_with_the_same_bits(
    few: ImageData, trained: nn.Module, tmp_path: Path, recipe: dict[str, Any], damage: str
) -> None:
    config = FinetuneConfig(epochs=3, batch_size=40, checkpoint_minutes=1e-9, **recipe)

    def run(stop: int | None, *, resume: bool) -> tuple[State, Finetuned | None]:
        def on_step(step: Step) -> None:
            if step.done == stop:
                raise _StopError

        model = nn.Sequential(nn.Dropout(0.1), fresh(2))
        try:
            found = finetune(
                model,
                few,
                config,
                teacher=copy.deepcopy(trained),
                folder=tmp_path if stop is not None or resume else None,
                resume=resume,
                on_step=on_step,
                on_note=lambda _: None,
            )
        except _StopError:
            return {}, None
        return state_of(model), found

    whole, expected = run(None, resume=False)
    run(2, resume=False)
    for stop in (5, 6, 8, 12):
        _damage(tmp_path, damage)
        run(stop, resume=True)
    state, found = run(None, resume=True)
    assert expected is not None
    assert found is not None
    assert same(whole, state)
    assert found.kept == expected.kept
    assert [_timeless(e) for e in found.epochs] == [_timeless(e) for e in expected.epochs]


def _damage(folder: Path, how: str) -> None:
    newest = max(folder.glob("*.pt"), key=lambda path: path.stat().st_mtime_ns)
    if how == "torn":
        newest.write_bytes(newest.read_bytes()[:-100])
    elif how == "garbage":
        newest.write_bytes(b"no checkpoint")


def _timeless(epoch: Epoch) -> dict[str, Any]:
    return {k: v for k, v in vars(epoch).items() if k not in ("seconds", "images_per_second")}


def test_another_recipe_or_network_is_not_resumed(few: ImageData, tmp_path: Path) -> None:
    config = FinetuneConfig(epochs=2, batch_size=40, lr=0.01)
    finetune(fresh(), few, config, teacher=None, folder=tmp_path)
    left = unfinished(tmp_path)
    assert left is not None
    assert (left.recipe, left.steps) == (config, 10)
    other = config.model_copy(update={"lr": 0.02})
    with pytest.raises(RunError, match=r"another recipe \(lr\)"):
        finetune(fresh(), few, other, teacher=None, folder=tmp_path, resume=True)
    with pytest.raises(RunError, match="other weights"):
        finetune(fresh(1), few, config, teacher=None, folder=tmp_path, resume=True)


def test_a_full_disk_does_not_end_a_training(few: ImageData, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the place of a folder")
    notes: list[str] = []
    config = FinetuneConfig(epochs=2, batch_size=40, lr=0.01)
    found = finetune(
        fresh(),
        few,
        config,
        teacher=None,
        folder=tmp_path / "file",
        on_note=notes.append,
    )
    assert len(found.epochs) == 2
    assert sum("could not be written" in note for note in notes) == 2
