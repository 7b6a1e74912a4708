"""What every runtime offers: whether it is there, a network loaded into it, a forward timed."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from amc.errors import ConfigError, ModelError
from amc.latency.backends.host import host_name, host_profile
from amc.modules.copying import copy_model
from amc.pruning.slicing.precision import FLOAT32, Casts, cast, cast_model
from amc.tracing.inputs import Inputs as Inputs
from amc.tracing.trace import named_tensors
from amc.utils.library_errors import reason

Forward = Callable[[], Any]
"""One forward of a loaded network on the inputs that it was loaded with; back when it is done, with
the outputs as the runtime hands them out."""


@dataclass(frozen=True)
class Part:
    """What one operation of a loaded network takes."""

    layer: str
    """Path of the module that owns its weight, ``layer1.0.conv1``; empty where none is known."""
    kind: str
    """What the runtime calls the operation: ``Conv``, ``Add``, ``ReorderOutput``."""
    ms: float
    """The lower quartile over forwards: most single operations are short enough to be timed without
    an interruption even on a busy machine."""


class Backend(ABC):
    """One way to run a network on this machine, with so many threads.

    Raises :class:`ConfigError` where it is not installed, or does not know the device.
    """

    name: ClassVar[str]
    """As ``--backend`` takes it."""
    title: ClassVar[str]
    """As people call it."""
    devices: ClassVar[tuple[str, ...]] = ("cpu",)
    precision: ClassVar[str] = "float32"

    def __init__(self, threads: int = 1, device: str = "cpu") -> None:
        missing = self.missing()
        if missing is not None:
            raise ConfigError(f"the backend {self.name!r} is not available: {missing}")
        if device.partition(":")[0] not in self.devices:
            raise ConfigError(
                f"the backend {self.name!r} does not run on {device!r}; it runs on "
                f"{' and '.join(self.devices)}"
            )
        if threads < 1:
            raise ConfigError(f"{threads} threads: a runtime needs at least 1")
        if device != "cpu" and not torch.cuda.is_available():
            raise ConfigError(f"no device {device!r} here; PyTorch finds no GPU")
        self.threads, self.device = threads, device

    @classmethod
    @abstractmethod
    def missing(cls) -> str | None:
        """Why it cannot be used here and what installs it; None where it can."""

    @property
    @abstractmethod
    def version(self) -> str:
        """Of the library."""

    def load(self, model: nn.Module, inputs: Any) -> Forward:
        """Make ``model`` ready for forwards on ``inputs``; the model itself is untouched.

        ``inputs`` are in any form of :class:`~amc.tracing.inputs.Inputs`, batch first.
        Raises :class:`ModelError` where the model's own forward fails on such inputs, and where the
        runtime cannot run one of its operators, with that operator's name.
        """
        with self._ready(model, inputs) as (ready, placed_inputs):
            return self._load(ready, placed_inputs)

    @abstractmethod
    def _load(self, model: nn.Module, inputs: Inputs) -> Forward:
        """:meth:`load`, of what :func:`placed` made and a forward has run through."""

    def time(self, forward: Forward) -> tuple[float, float]:
        """Seconds of one forward: by the clock, and of all processors of this process together.

        A device with a clock of its own replaces it.
        """
        return host_time(forward)

    def profile(
        self, model: nn.Module, inputs: Any, *, repeats: int = 50
    ) -> tuple[Part, ...] | None:
        """The operations of ``model`` in the order in which they run, each with its time.

        None where the runtime does not tell. What the parts leave of a whole forward is overhead.
        Raises what :meth:`load` raises.
        """
        with self._ready(model, inputs) as (ready, placed_inputs):
            return self._profile(ready, placed_inputs, repeats)

    def _profile(
        self,
        model: nn.Module,  # noqa: ARG002 (those that tell read them)
        inputs: Inputs,  # noqa: ARG002
        repeats: int,  # noqa: ARG002
    ) -> tuple[Part, ...] | None:
        """:meth:`profile`, of what :meth:`_load` gets."""
        return None

    @property
    def description(self) -> str:
        """For people: ``ONNX Runtime 1.31.1, 1 thread, float32, AMD EPYC``."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        parts = [f"{self.title} {self.version}", threads, self.precision, host_name(self.device)]
        return ", ".join(part for part in parts if self.device == "cpu" or part != threads)

    def identity(self) -> dict[str, str]:
        """All that a latency of one network depends on: measurements compare where it is equal."""
        return {
            "runtime": self.name,
            "version": self.version,
            "threads": str(self.threads),
            "precision": self.precision,
            "device": self.device,
            "host": host_profile(self.device),
        }

    @contextmanager
    def _ready(self, model: nn.Module, inputs: Any) -> Iterator[tuple[nn.Module, Inputs]]:
        """Model and inputs as :func:`placed`, and known to fit; errors inside name the runtime."""
        given = Inputs.of(inputs, model)
        failure: Exception | None = None
        with torch.inference_mode():
            for casts in (FLOAT32, {}):  # the network's code may be bound to another precision
                ready, moved = placed(model, given, self.device, casts)
                try:
                    moved.call(ready)
                    break
                except Exception as error:  # the model's own code: anything may come
                    failure = failure or error
            else:
                assert failure is not None
                raise ModelError(
                    f"the network does not take inputs of shapes {given.shapes}: {reason(failure)}"
                ) from failure
            try:
                yield ready, moved
            except Exception as error:  # what exporters and compilers raise is not documented
                raise ModelError(
                    f"{self.title} cannot run this network: {reason(error)}"
                ) from error


def host_time(forward: Forward) -> tuple[float, float]:
    """Seconds of one forward by this process's clocks: wall, and CPU of all its threads."""
    cpu, wall = time.process_time(), time.perf_counter()
    forward()
    return time.perf_counter() - wall, time.process_time() - cpu


def placed(
    model: nn.Module, inputs: Inputs, device: str, casts: Casts = FLOAT32
) -> tuple[nn.Module, Inputs]:
    """A copy of the model in evaluation mode, and the inputs, both in float32 on ``device``.

    The copy shares the model's tensors where they are so already. ``casts`` name other kinds of
    numbers.
    """

    def there(tensor: Tensor) -> Tensor:
        return cast(tensor.to(device), casts)

    tensors = [tensor for _, tensor in named_tensors(model)]
    if all(there(tensor) is tensor for tensor in tensors):
        model = copy_model(model, {id(tensor): tensor for tensor in tensors})
    else:
        model = cast_model(copy_model(model).to(device), casts)
    return model.eval(), inputs.map(there)


def parts_of(samples: Mapping[tuple[str, str, int], Sequence[float]]) -> tuple[Part, ...]:
    """Parts out of the seconds that each of (layer, kind, number) took, forward by forward."""
    return tuple(
        Part(layer, kind, float(np.percentile(seconds, 25)) * 1e3)
        for (layer, kind, _), seconds in samples.items()
    )
