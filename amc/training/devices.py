"""The processes of a training: one, or several that share each batch (Hugging Face accelerate).

Each of several has a part of every batch, and the mean of their gradients is one collective sum,
after the backward and not within it as in DistributedDataParallel: that takes a little longer where
the connection is slow, and layers may be frozen, unfrozen or unused, and parts of unequal sizes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from amc.errors import ConfigError, RunError
from amc.modules.copying import copy_model

_LONGEST_WAIT = timedelta(hours=12)
"""For another process: the first tests and measures networks, and the others wait meanwhile."""
_PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


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

    def part(self, images: int) -> slice:
        """The part of a batch of so many images that this process has."""
        ends = [round(images * rank / self.count) for rank in (self.rank, self.rank + 1)]
        return slice(*ends)

    def synchronised(self, model: nn.Module) -> nn.Module:
        """``model``, or a copy whose BatchNorm sees the whole batch, to be trained in its place;
        both have the same names of weights."""
        return model

    def averaged(
        self, optimizer: Optimizer, told: Mapping[str, Tensor], images: int
    ) -> dict[str, Tensor]:
        """``told`` (scalars), and in place the gradients, as means over the whole batch.

        ``images`` is how many this process has seen, by which its own means weigh; 0 where what it
        has seen does not count.
        """
        del optimizer, images
        return dict(told)

    def draw_apart(self, seed: int, step: int) -> None:
        """Seed this process's own numbers (dropout) for a step; the first goes on as it would
        alone."""

    def agreed(self, *numbers: float) -> tuple[float, ...]:
        """Those of the first process, for decisions that all take alike."""
        return numbers

    def share_(self, model: nn.Module) -> None:
        """The first process's parameters and buffers for all, in place."""

    def wait(self) -> None:
        """Until all processes are here."""

    def close(self) -> None:
        """Part from the other processes."""


class SeveralDevices(Devices):
    """One of the processes that ``accelerate launch`` has started.

    Raises :class:`ConfigError` where accelerate is not installed. All that exchanges something
    raises :class:`RunError` where another process has ended.
    """

    def __init__(self) -> None:
        try:
            from accelerate import PartialState
            from accelerate.utils import parse_flag_from_env
        except ImportError:
            raise ConfigError(
                "several processes (WORLD_SIZE > 1) need Hugging Face accelerate: pip install "
                "amc-agent[distributed]"
            ) from None
        cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
        self._state = PartialState(cpu=cpu, timeout=_LONGEST_WAIT)
        self.rank = int(self._state.process_index)
        self.count = int(self._state.num_processes)
        self.device = str(self._state.device)

    def synchronised(self, model: nn.Module) -> nn.Module:
        """On GPUs, a copy with synchronised BatchNorm (PyTorch has none for CPUs: there each
        process has statistics of its part).

        Subclasses of BatchNorm may do more than it (timm's have an activation), and stay.
        """
        if not str(self.device).startswith("cuda"):
            return model
        copied = copy_model(model)
        for module in list(copied.modules()):
            for name, child in list(module.named_children()):
                if type(child) in _PLAIN:
                    setattr(module, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))
        return copied

    def averaged(
        self, optimizer: Optimizer, told: Mapping[str, Tensor], images: int
    ) -> dict[str, Tensor]:
        """Means over the whole batch, by one sum over the processes."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = []
        for parameter in parameters:
            if parameter.requires_grad:
                if parameter.grad is None:  # not used here; perhaps in another process
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
        means = self._means([*gradients, *told.values()], images)
        for gradient, mean in zip(gradients, means, strict=False):
            gradient.copy_(mean)
        return dict(zip(told, means[len(gradients) :], strict=True))

    def _means(self, values: Sequence[Tensor], weight: int) -> list[Tensor]:
        one = torch.ones(1, device=self.device)
        flat = torch.cat([*(value.detach().reshape(-1) for value in values), one])
        # Not times 0: what does not count need not be finite.
        flat = flat * weight if weight else torch.zeros_like(flat)
        with self._together():
            distributed.all_reduce(flat)
        means = (flat[:-1] / flat[-1].clamp_min(1)).split([value.numel() for value in values])
        return [mean.view(value.shape) for mean, value in zip(means, values, strict=True)]

    def draw_apart(self, seed: int, step: int) -> None:
        """Other numbers than the others, which do not depend on what was drawn before."""
        if not self.first:
            torch.manual_seed(((seed * 1_000_003 + step) * self.count + self.rank) % 2**63)

    def agreed(self, *numbers: float) -> tuple[float, ...]:
        """Those of the first process."""
        shared = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        with self._together():
            distributed.broadcast(shared, 0)
        return tuple(shared.tolist())

    @torch.no_grad()
    def share_(self, model: nn.Module) -> None:
        """The first process's parameters and buffers for all: as bytes, whatever their types."""
        tensors = [*model.parameters(), *model.buffers()]
        parts = [t.detach().to(self.device).reshape(-1).view(torch.uint8) for t in tensors]
        flat = torch.cat(parts) if parts else torch.empty(0, dtype=torch.uint8, device=self.device)
        with self._together():
            distributed.broadcast(flat, 0)
        if self.first:
            return
        for tensor, part in zip(tensors, flat.split([len(part) for part in parts]), strict=True):
            tensor.copy_(part.clone().view(tensor.dtype).view(tensor.shape))

    def wait(self) -> None:
        """Until all processes are here: all have to add something."""
        with self._together():
            distributed.all_reduce(torch.zeros(1, device=self.device))

    def close(self) -> None:
        """Part from the other processes."""
        self._state.destroy_process_group()

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RunError(
                f"process {self.rank + 1} of {self.count} has lost the others, one of which has "
                "ended; go on with amc finetune --resume"
            ) from error


def devices() -> Devices:
    """Those that this process was started for: by ``accelerate launch``, or alone."""
    return SeveralDevices() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Devices()
