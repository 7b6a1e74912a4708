"""Whether a mistake could show in what a layer computes.

Each measure is a share of the layer's largest mean output: about how far its compared means would
move if its inputs were gone, or came in another order. Where that is near zero, the layer would
compute the same with the wrong channels, and agreement proves nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from amc.pruning.slicing.relative_error import relative_error

_CLEAR = 1e-2
"""Estimates above that are trusted; below it the shifted layer is computed."""
_SAMPLES = 256
"""Positions that are looked at of what a norm computes."""
_PRODUCTS = ("addmm", "mm", "matmul")


def channel_means(x: Tensor, dim: int) -> Tensor:
    """(2, channels) means over all other dimensions: of the values, and last of their sizes.

    Of complex numbers (3, channels): of both their parts.
    """
    dim %= x.dim()
    others = [d for d in range(x.dim()) if d != dim]
    if others:
        count = x.numel() // max(1, x.shape[dim])
        means, sizes = x.mean(others), torch.linalg.vector_norm(x, 1, others) / count
    else:
        means, sizes = x, x.abs()
    parts = (means.real, means.imag) if means.is_complex() else (means,)
    return torch.stack([*parts, sizes])


def layer_signal(func: Any, call: LayerCall, means: Tensor, *, reads: bool) -> float:
    """Share of a convolution's or linear layer's output that depends on its inputs.

    ``means`` are its outputs' :func:`channel_means`. Where it ``reads`` channels of a unit, it also
    has to tell them apart: the share that changes when they are shifted by one.
    """
    scale = float(means[-1].max())
    if not scale:
        return 0.0
    x, dim = call.x, call.dim
    inputs = channel_means(x, dim)
    gains = call.gains()
    share = float((gains * inputs[-1]).norm()) / scale
    if not reads or inputs.shape[1] < 2:
        return share
    shifted = (inputs - inputs.roll(1, 1)).abs().amax(0)
    change = float((gains * shifted).norm()) / scale
    if change < _CLEAR:
        moved = func(*call.replaced(x.roll(1, dim)), **call.kwargs)
        change = relative_error(channel_means(moved, call.out_dim), means)
    return min(share, change)


def norm_signal(out: Tensor, bias: Tensor | None, dim: int) -> float:
    """Share of a norm's output that is not its shift, at a sample of positions."""
    rows = out.movedim(dim, -1).flatten(0, -2)
    rows = rows[:: max(1, len(rows) // _SAMPLES)]
    scale = float(rows.abs().mean(0).max())
    varying = rows if bias is None else rows - bias.to(rows)
    return float(varying.abs().mean(0).max()) / scale if scale else 0.0


class LayerCall:
    """The arguments of a layer that multiplies its input by a stored weight."""

    def __init__(self, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._args, self.kwargs = args, kwargs
        self._input = 1 if kind == "addmm" else 0
        self.x: Tensor = args[self._input]
        self.weight: Tensor = args[self._input + 1]
        self.matrix = kind in ("linear", *_PRODUCTS)
        self.transposed = kind in _PRODUCTS or "transpose" in kind
        if kind in ("convolution", "_convolution"):
            self.transposed = bool(args[6])
        self.weight_out = int(self.transposed)
        """The weight's dimension of outputs; that of inputs is the other."""
        self.dim = self.x.dim() - 1 if self.matrix else self.x.dim() - self.weight.dim() + 1
        self.out_dim = self.dim

    def replaced(self, x: Tensor) -> tuple[Any, ...]:
        """The arguments with another input."""
        return (*self._args[: self._input], x, *self._args[self._input + 1 :])

    def gains(self) -> Tensor:
        """(input channels,) the root mean square over outputs of what each is multiplied by."""
        weight = self.weight if self.weight_out == 0 else self.weight.transpose(0, 1)
        channels = self.x.shape[self.dim]
        groups = max(1, channels // weight.shape[1])
        if self.transposed and not self.matrix:
            groups = 1
        rows = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
        return rows.abs().square().sum((1, 3)).div(max(1, rows.shape[1])).sqrt().flatten()
