"""What the two processes of test_devices.py do, and what is left of it for the test to look at."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from amc.config import FinetuneConfig
from amc.errors import AMCError
from amc.task import Epoch, Step
from amc.training.devices import Devices, SeveralDevices, devices
from amc.training.distillation.base import Outputs
from amc.training.distillation.features import ProjectedFeatures
from amc.training.finetune import finetune
from amc.vision.data import ImageData, Images, Split

WHOLE = FinetuneConfig(epochs=8, batch_size=105, distill=("kd", "features"), distill_weight=0.3)
"""Of 301 images: batches of 101, 100 and 100, the first of which cannot be halved."""
SHORT = FinetuneConfig(epochs=2, batch_size=105, lr=0.05, distill_weight=0)
STOPPED = FinetuneConfig(
    epochs=3,
    batch_size=105,
    lr=0.05,
    patience=2,
    clip_norm=1.0,
    distill=("features",),
    freeze=("1",),
    unfreeze_epoch=1,
    checkpoint_minutes=1e-9,
)
DIVERGING = FinetuneConfig(epochs=2, batch_size=105, lr=1e30, warmup_epochs=0)
STOPS = (2, 4)
"""Steps at which a training is interrupted: in the middle of an epoch, and in that of the next."""


def images() -> ImageData:
    """Ten symmetric patterns in noise: 301 to train on, 100 to choose by, 100 to test on."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (501,), generator=generator)
    patterns = torch.randint(256, (10, 1, 8, 8), generator=generator)
    patterns = (patterns + patterns.flip(3)) // 2
    noise = torch.randint(256, (501, 1, 8, 8), generator=generator)
    every = Split(((3 * patterns[labels] + noise) // 4).to(torch.uint8), labels)
    splits = [every.take(part) for part in torch.arange(501).split((301, 100, 100))]
    return ImageData("patterns", tuple("abcdefghij"), *splits, (0.5,), (0.25,), 1, flip=True)


def network(seed: int, *, norm: bool) -> nn.Module:
    """Of two resolutions; without ``norm`` processes that share a batch do what one does."""

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        return [conv, nn.BatchNorm2d(outputs) if norm else nn.Identity(), nn.ReLU()]

    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Dropout(0.1 if norm else 0.0),
            *block(1, 8),
            nn.MaxPool2d(2),
            *block(8, 12 + seed),
            nn.Flatten(),
            nn.Linear((12 + seed) * 16, 10),
        )


def linear_in_the_batch() -> None:
    """The loss of features as a mean over images: its scale, too, is then that of every part."""

    def forward(self: ProjectedFeatures, outputs: Outputs) -> Tensor:
        pairs = zip(
            self.projections, outputs.student_features, outputs.teacher_features, strict=True
        )
        return torch.stack([functional.mse_loss(p(mine), other) for p, mine, other in pairs]).sum()

    ProjectedFeatures.forward = forward  # type: ignore[method-assign]


class Unreadable:
    """Images of which none of the second half of every ``period``-th batch can be read."""

    def __init__(self, images: Images, team: Devices, period: int) -> None:
        self._images, self._team, self._period = images, team, period
        self.labels = images.labels

    def __len__(self) -> int:
        return len(self._images)

    def take(self, indices: Tensor) -> Split:
        return self._images.take(indices)

    def batches(self, order: Iterable[Tensor]) -> Iterator[Split]:
        for number, indices in enumerate(order):
            if number % self._period == 1:
                half = round(len(indices) / 2)
                indices = indices[: 0 if self._team.count > 1 else half] if self._hit else indices
            yield self.take(indices)

    @property
    def _hit(self) -> bool:
        return self._team.count == 1 or self._team.rank == 1


def trained(config: FinetuneConfig, *, norm: bool, stop: int = 0, **options: Any) -> dict[str, Any]:
    """What a training of a fresh network comes to; {} where it was stopped after ``stop`` steps."""
    model, data = network(0, norm=norm), options.pop("data", None) or images()
    notes: list[str] = []

    def on_step(step: Step) -> None:
        if step.done == stop:
            raise KeyboardInterrupt

    try:
        found = finetune(
            model,
            data,
            config,
            teacher=network(3, norm=norm) if config.distill_weight else None,
            on_step=on_step,
            on_note=notes.append,
            **options,
        )
    except KeyboardInterrupt:
        return {}
    return {
        "state": copy.deepcopy(model.state_dict()),
        "epochs": [timeless(epoch) for epoch in found.epochs],
        "lr": found.recipe.lr,
        "kept": found.kept,
        "notes": notes,
    }


def timeless(epoch: Epoch) -> dict[str, Any]:
    return {k: v for k, v in vars(epoch).items() if k not in ("seconds", "images_per_second")}


def failure(*arguments: Any, **options: Any) -> str:
    try:
        trained(*arguments, **options)
    except AMCError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def shared(team: Devices) -> dict[str, Tensor]:
    """Of a network that has all kinds of tensors, in another layout in each process."""
    model = network(team.rank, norm=True)[1:3]
    model.register_buffer("flag", torch.tensor([team.first, True, False]))
    model.to(memory_format=torch.channels_last if team.first else torch.contiguous_format)
    team.share_(model)
    return model.state_dict()


def drawn(team: Devices, seed: int, step: int) -> Tensor:
    torch.manual_seed(seed)
    team.draw_apart(0, step)
    return torch.rand(3)


def run(rank: int, folder: Path, port: int) -> None:
    """All of it, in one of the two processes; ``folder/RANK.pt`` has what came of it."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "OMP_NUM_THREADS": "1",
    }
    torch.set_num_threads(1)
    team = devices()
    assert isinstance(team, SeveralDevices)
    found: dict[str, Any] = {"shared": shared(team), "agreed": team.agreed(rank, 0.1 + rank)}
    found["drawn"] = [drawn(team, seed, step) for seed, step in ((7, 1), (8, 1), (8, 2))]
    data = images()
    unreadable = ImageData(**{**vars(data), "train": Unreadable(data.train, team, 3)})
    found["short"] = trained(SHORT, norm=False, data=unreadable, devices=team)
    found["diverging"] = failure(DIVERGING, norm=True, devices=team)
    tiny = SHORT.model_copy(update={"batch_size": 3})
    found["tiny"] = failure(tiny, norm=True, devices=team)
    found["whole run"] = trained(STOPPED, norm=True, devices=team)
    place = folder / "checkpoints"
    for stop in STOPS:
        assert not trained(
            STOPPED, norm=True, stop=stop, devices=team, folder=place, resume=place.exists()
        )
        team.wait()
    found["resumed"] = trained(STOPPED, norm=True, devices=team, folder=place, resume=True)
    linear_in_the_batch()
    found["whole"] = trained(WHOLE, norm=False, devices=team)
    # The second process finds no checkpoint, and ends; the first one has to notice.
    elsewhere = place if team.first else folder / "elsewhere"
    found["lost"] = failure(STOPPED, norm=True, devices=team, folder=elsewhere, resume=True)
    team.close()
    torch.save(found, folder / f"{rank}.pt")
