"""The processes of a training: one, or several that share each batch (Hugging Face accelerate)."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from torch import Tensor, nn

from amc.errors import ConfigError


class Devices:
    """This process alone. What several of them do otherwise is in :class:`SeveralDevices`."""

    rank = 0
    count = 1
    device: str | None = None
    """Where this process trains; None: where the task says."""

    @property
    def first(self) -> bool:
        """Whether this process writes and tells."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """What is called in the place of ``model``, whose gradients are then those of the whole
        batch."""
        return model

    def synchronised(self, model: nn.Module) -> nn.Module:
        """``model``, or a copy whose BatchNorm sees the whole batch, to be trained in its place."""
        return model

    def part(self, images: int) -> slice:
        """The part of a batch of so many images that this process has."""
        ends = [round(images * rank / self.count) for rank in (self.rank, self.rank + 1)]
        return slice(*ends)

    def scale(self, part: slice, images: int) -> float:
        """Factor on the mean loss of a part, so that the mean over processes is the whole's."""
        return float(part.stop - part.start) * self.count / images

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        return value


class SeveralDevices(Devices):
    """One of the processes that ``accelerate launch`` has started.

    Raises :class:`ConfigError` where accelerate is not installed.
    """

    def __init__(self) -> None:
        try:
            from accelerate import Accelerator
        except ImportError:
            raise ConfigError(
                "several processes (WORLD_SIZE > 1) need Hugging Face accelerate: pip install "
                "amc-agent[distributed]"
            ) from None
        cpu = not torch.cuda.is_available()
        self._accelerator: Any = Accelerator(cpu=cpu)
        self.rank = int(self._accelerator.process_index)
        self.count = int(self._accelerator.num_processes)
        self.device = str(self._accelerator.device)

    def wrap(self, model: nn.Module) -> nn.Module:
        """``model`` for this process: gradients are averaged over all."""
        wrapped: nn.Module = self._accelerator.prepare_model(model)
        return wrapped

    def synchronised(self, model: nn.Module) -> nn.Module:
        """On GPUs, a copy with synchronised BatchNorm."""
        if str(self.device).startswith("cuda"):  # there is none for CPUs: each has its own statistics
            synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
            return synchronised
        return model

    def total(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        summed: Tensor = self._accelerator.reduce(value, reduction="sum")
        return summed


def devices() -> Devices:
    """Those that this process was started for: by ``accelerate launch``, or alone."""
    return SeveralDevices() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Devices()
