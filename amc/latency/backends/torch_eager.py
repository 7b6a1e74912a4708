"""PyTorch as it is, operation by operation, on the CPU or a GPU."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from amc.latency.backends.base import Backend, Forward, Inputs, Part, parts_of


class TorchEager(Backend):
    """What a network does in the program that trained it."""

    name = "torch"
    title = "PyTorch"
    devices = ("cpu", "cuda")

    @classmethod
    def missing(cls) -> str | None:
        """Nothing: it is always there."""
        return None

    @property
    def version(self) -> str:
        """Of the package, without the build."""
        return str(torch.__version__).partition("+")[0]

    def _load(self, model: nn.Module, inputs: Inputs) -> Forward:
        def forward() -> object:
            with _threads(self.threads), torch.inference_mode():
                outputs = inputs.call(model)
                self._wait()
                return outputs

        return forward

    def _profile(self, model: nn.Module, inputs: Inputs, repeats: int) -> tuple[Part, ...] | None:
        samples: dict[tuple[str, str, int], list[float]] = defaultdict(list)
        begun: list[tuple[float, float]] = []

        def begin(*_: object) -> None:
            self._wait()
            begun.append((time.perf_counter(), time.process_time()))

        def end(name: str) -> Callable[..., None]:
            def note(module: nn.Module, *_: object) -> None:
                self._wait()
                wall, cpu = begun.pop()
                seconds = time.perf_counter() - wall
                if self.device == "cpu":  # CPU time is less where this process had to wait
                    seconds = min(seconds, time.process_time() - cpu)
                kind = type(module).__name__
                calls[name] += 1
                samples[name, kind, calls[name]].append(seconds)

            return note

        leaves = [(name, x) for name, x in model.named_modules() if not next(x.children(), None)]
        for name, module in leaves:
            module.register_forward_pre_hook(begin)
            module.register_forward_hook(end(name))
        forward = self._load(model, inputs)
        for _ in range(repeats):
            calls: Counter[str] = Counter()
            forward()
        return parts_of(samples)

    def _wait(self) -> None:
        """A GPU computes on while the program goes on."""
        if self.device != "cpu":
            torch.cuda.synchronize(self.device)

    def time(self, forward: Forward) -> tuple[float, float]:
        """On a GPU, from one event on its stream to another around the forward."""
        if self.device == "cpu":
            return super().time(forward)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cpu = time.process_time()
        with torch.cuda.device(self.device):
            start.record()
            forward()
            end.record()
            end.synchronize()
        return start.elapsed_time(end) / 1e3, time.process_time() - cpu


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """PyTorch's threads are the process's: change them only for as long as a forward takes."""
    before = torch.get_num_threads()
    if before == number:
        yield
        return
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
