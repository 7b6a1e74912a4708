"""Layers that have lost all their inputs or outputs: they cost nothing, and give constants.

PyTorch's convolutions and BatchNorms refuse channel counts of zero. Where a plan drops a branch,
such a layer gets a forward that only knows the shape of its result.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def replace_if_empty(module: nn.Module) -> None:
    """Turn ``module`` into an empty one, in place, if no channel goes in or none comes out."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.numel():
        return
    if isinstance(module, _ConvNd) and not isinstance(module, _ConvTransposeNd):
        module.__class__ = EmptyConv
    elif isinstance(module, _BatchNorm):
        module.__class__ = EmptyNorm


class EmptyConv(_ConvNd):
    """A convolution of any rank without weights: its bias everywhere, or nothing at all."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, ...) to (N, out, ...), ``in`` or ``out`` being 0."""
        out = x.new_zeros(x.shape[0], len(self.weight), *map(self._side, *self._axes(x)))
        if self.bias is None:
            return out
        return out + self.bias.view(-1, *[1] * len(self.kernel_size))

    def _axes(self, x: Tensor) -> tuple[Any, ...]:
        rank = len(self.kernel_size)
        same = self.padding if isinstance(self.padding, str) else None
        padding = (same,) * rank if same else self.padding
        return x.shape[-rank:], self.kernel_size, self.stride, padding, self.dilation

    @staticmethod
    def _side(size: int, kernel: int, stride: int, padding: int | str, dilation: int) -> int:
        span = dilation * (kernel - 1)
        total = {"same": span, "valid": 0}[padding] if isinstance(padding, str) else 2 * padding
        return (size + total - span - 1) // stride + 1


class EmptyNorm(_BatchNorm):
    """BatchNorm of no channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 0, ...) as it came."""
        return x
