"""Runs convolutions in channels_last and compares them with an independent computation.

A program of its own, which needs nothing but PyTorch: a kernel that corrupts memory ends it, and
nothing else. It reads a JSON list of groups of convolutions (fields of
:class:`amc.compute.convolutions.Convolution`) from its input, and prints ``try N`` before and
``sound N`` after group N. After the first one that is not sound it ends: its memory cannot be
trusted any more.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import random
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

TIME_LIMIT_S = 20.0
"""For one run of a convolution: an allocator that lost its bookkeeping may wait for ever."""
_TRIALS = 12
"""Runs of a group, at least. A kernel that writes past a block is noticed when the memory behind
it is freed, if that is in use: in one of three to ten runs it is not (oneDNN 3.13, AVX2). With
two threads the same kernel is silent, and the gradient wrong: always, or in one of three runs."""
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 3e-2
"""Of the largest absolute value: many times the roundings of float32 and of bfloat16 (8 bits)."""


def main() -> None:
    """Try each group; the process' end is the verdict on the last one."""
    _no_core_files()
    for number, group in enumerate(json.load(sys.stdin)):
        print("try", number, flush=True)
        runs = max(2, _TRIALS // len(group))
        for fields in group:
            if not is_sound(fields, runs, _watch):
                sys.exit(1)
        faulthandler.cancel_dump_traceback_later()
        print("sound", number, flush=True)


def _watch() -> None:
    """Begin a time limit; it needs no lock that a hanging kernel may hold."""
    faulthandler.dump_traceback_later(TIME_LIMIT_S, exit=True)


def is_sound(
    fields: dict[str, Any], runs: int, before_run: Callable[[], None] = lambda: None
) -> bool:
    """Whether ``runs`` runs in channels_last give what PyTorch gives without oneDNN."""
    torch.set_num_threads(fields["threads"])
    torch.manual_seed(0)
    dtype = getattr(torch, fields["dtype"])
    layer = make(fields)
    images = torch.randn(fields["images"], layer.in_channels, fields["height"], fields["width"])
    before_run()
    with torch.backends.mkldnn.flags(enabled=False):
        expected = results(layer, images, fields["backward"])
    is_half = fields["bf16"] or dtype.itemsize == 2
    tolerance = _HALF_TOLERANCE if is_half else _TOLERANCE
    # In place: the strides of a 1x1 weight mark the layout, which a copy would lose.
    layer.to(dtype).to(memory_format=torch.channels_last)
    images = images.to(dtype).to(memory_format=torch.channels_last)
    blocks: list[Tensor] = []
    for _ in range(runs):
        _shuffle(blocks)
        before_run()
        with torch.autocast("cpu", torch.bfloat16, enabled=fields["bf16"]):
            found = results(layer, images, fields["backward"])
        pairs = zip(expected, found, strict=True)
        # Written so that NaN is unsound.
        if not all((a - b).abs().max() <= tolerance * a.abs().max() for a, b in pairs):
            return False
    return True


def make(fields: dict[str, Any]) -> Any:
    """The layer, with random weights."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation")
    options = {name: _tuples(fields[name]) for name in (*names, "groups", "bias", "padding_mode")}
    if fields["kind"] == "ConvTranspose2d":
        options["output_padding"] = _tuples(fields["output_padding"])
    return getattr(nn, fields["kind"])(**options)


def results(layer: nn.Module, images: Tensor, backward: bool) -> list[Tensor]:
    """The output and, with ``backward``, the gradients of input and parameters."""
    if not backward:
        with torch.no_grad():
            return [layer(images).float()]
    inputs = images.detach().requires_grad_()
    output = layer(inputs).float()
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(output.shape, generator=generator)
    # The gradient arrives in the layout of the output, as within a network.
    loss = (output * weights.to(memory_format=_layout(output))).sum()
    gradients = torch.autograd.grad(loss, [inputs, *layer.parameters()])
    return [output.detach(), *(gradient.float() for gradient in gradients)]


def _layout(tensor: Tensor) -> torch.memory_format:
    is_last = tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if is_last else torch.contiguous_format


def _shuffle(blocks: list[Tensor]) -> None:
    """Other blocks of memory, of 64 B to 1 MB, so that others lie behind those of the kernel."""
    sizes = (int(64 * 2 ** random.uniform(0, 14)) for _ in range(96))
    blocks += [torch.empty(size, dtype=torch.uint8) for size in sizes]
    random.shuffle(blocks)
    del blocks[::2]


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _no_core_files() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    random.seed(0)
    main()
