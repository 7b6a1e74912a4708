"""What both of the zoo's children share: the network, the clock and the count of the truth.

A child is one process for one network: ``python benchmarks/zoo_amc.py NAME FILE SECONDS``. It
appends what it learns to FILE, line by line, so that what was found before a crash is kept; from
the moment the network is built it has SECONDS of wall time, after which the kernel ends it.
"""

from __future__ import annotations

import ctypes
import gc
import math
import re
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision  # noqa: F401 (it registers its operations)
from common import append_line
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from zoo_networks import Network, zoo

from amc.pruning.slicing.lively import enliven_
from amc.tracing.inputs import outputs_of
from amc.tracing.trace import unfused_attention

SEED = 0
Emit = Callable[..., None]
"""Keeps the keyword arguments as results of this network."""


def run(measure: Callable[[Network, Emit, int], None]) -> None:
    """The main function of a child."""
    name, path, seconds = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    measure(zoo()[name], lambda **results: append_line(path, results), seconds)


def prepare(network: Network, seconds: int) -> tuple[nn.Module, tuple[Any, ...], tuple[Any, ...]]:
    """The enlivened network in evaluation mode, and two inputs of batch 1; starts the time limit.

    The same network and inputs in every process.
    """
    torch.manual_seed(SEED)  # initialisation draws from the global generator
    model = network.build().eval()
    generator = torch.Generator().manual_seed(SEED)
    enliven_(model, network.inputs(model, 4, generator), generator)
    first, second = (network.inputs(model, 1, generator) for _ in range(2))
    signal.alarm(seconds)  # nobody handles it: the process ends, wherever it is
    return model, first, second


def count_macs(model: nn.Module, inputs: tuple[Any, ...]) -> int:
    """Multiply-accumulates by PyTorch's own counter, which is the truth here.

    Attention must run in its parts, and outside of inference mode, for the counter to see it, an
    LSTM without oneDNN; of torchvision's deformable convolution it has to be told. It fails on a
    parameter that is handed to a module, unless that needs no gradient.
    """
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.requires_grad_(False)
        with warnings.catch_warnings(), ExitStack() as stack:
            warnings.simplefilter("ignore")  # of settings of other devices, which flags() touches
            stack.enter_context(torch.backends.mkldnn.flags(enabled=False))
            stack.enter_context(torch.no_grad())
            stack.enter_context(unfused_attention())
            more = {torch.ops.torchvision.deform_conv2d: _deformable}
            counter = stack.enter_context(FlopCounterMode(display=False, custom_mapping=more))
            model(*inputs)
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)
    return int(counter.get_total_flops()) // 2


def _deformable(
    _images: torch.Size, weight: torch.Size, *_: Any, out_shape: torch.Size, **__: Any
) -> int:
    """FLOPs of a convolution with a weight of (out, in / groups, *kernel)."""
    return 2 * math.prod((*out_shape, *weight[1:]))


def difference(actual: Any, expected: Any) -> float | None:
    """Largest difference over the largest expected output; None where shapes differ."""
    pairs = list(zip(outputs_of(actual), outputs_of(expected), strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return None
    parts = [
        float((a - b).abs().max()) / (float(b.abs().max()) or 1.0)
        for a, b in pairs
        if b.numel() and b.is_floating_point()
    ]
    return max(parts, default=0.0)


@contextmanager
def measured(emit: Emit, what: str) -> Iterator[None]:
    """Emit CPU and wall seconds of a block, and the memory it needed at its peak.

    Memory is the growth of the process over what it held before the block: libraries, weights and
    inputs are not in it. Free memory goes back to the kernel first, else the block could reuse it
    unseen. Where the kernel cannot reset its peak (it can on Linux), memory is None.
    """
    gc.collect()
    _trim()
    before = _start_peak()
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    emit(
        **{
            f"{what}_cpu_seconds": time.process_time() - cpu,
            f"{what}_wall_seconds": time.perf_counter() - wall,
            f"{what}_before_mb": before,
            f"{what}_mb": None if before is None else _memory_mb("VmHWM") - before,
        }
    )


def _trim() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def _start_peak() -> float | None:
    """Reset the kernel's mark of the highest memory; the memory now in MB, None where it cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _memory_mb("VmRSS")
    except OSError:
        return None


def _memory_mb(field: str) -> float:
    (kilobytes,) = re.findall(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(kilobytes) / 1024


def first_line(error: BaseException) -> str:
    """An exception in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
