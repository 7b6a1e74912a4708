"""torchvision's attention modules with forwards of ours, for any number of heads.

:mod:`amc.tracing.attention` imports this only for networks of torchvision's modules: importing
torchvision takes seconds.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

REWRITTEN = (
    ShiftedWindowAttention,
    ShiftedWindowAttentionV2,
    RelativePositionalMultiHeadAttention,
)
"""Modules that get a forward of ours once they are sliced."""


def state_torchvision_heads(module: Any) -> None:
    """Give ``module`` the forward that its tensors' shapes ask for, if its own no longer fits."""
    if type(module) in (ShiftedWindowAttention, ShiftedWindowAttentionV2):
        if module.qkv.weight.shape[0] != 3 * module.qkv.weight.shape[1]:
            second = type(module) is ShiftedWindowAttentionV2
            module.__class__ = SlicedWindowAttentionV2 if second else SlicedWindowAttention
    elif (
        type(module) is RelativePositionalMultiHeadAttention
        and module.merge.weight.shape[1] != module.to_qkv.weight.shape[1]
    ):
        module.__class__ = SlicedRelativeAttention


class _SlicedWindows:
    """Attention within windows that are shifted around the feature map (Swin, Swin V2)."""

    def forward(self: Any, x: Tensor) -> Tensor:
        """(N, H, W, C) to the same shape."""
        _, height, width, _ = x.shape
        window = self.window_size
        x = functional.pad(x, (0, 0, 0, -width % window[1], 0, -height % window[0]))
        size = x.shape[1:3]
        # A window that covers the whole side has nowhere to go.
        shift = [0 if w >= s else d for d, w, s in zip(self.shift_size, window, size, strict=True)]
        x = torch.roll(x, (-shift[0], -shift[1]), (1, 2))
        attended = self._attend(_to_windows(x, window), _window_mask(x, window, shift))
        x = _from_windows(attended, window, size)
        return torch.roll(x, (shift[0], shift[1]), (1, 2))[:, :height, :width].contiguous()

    def _attend(self: Any, x: Tensor, mask: Tensor | None) -> Tensor:
        """(N * windows, tokens, C) to the same shape; ``mask`` is (windows, tokens, tokens)."""
        bias = self.qkv.bias
        cosine = hasattr(self, "logit_scale")
        if cosine and bias is not None:  # Swin V2 has no bias on its keys
            third = len(bias) // 3
            bias = torch.cat([bias[:third], torch.zeros_like(bias[:third]), bias[2 * third :]])
        qkv = functional.linear(x, self.qkv.weight, bias)
        q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if cosine:
            q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
            scores = q @ k.transpose(-2, -1) * self.logit_scale.clamp(max=math.log(100.0)).exp()
        else:
            scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
        scores = scores + self.get_relative_position_bias()
        if mask is not None:
            windows = scores.unflatten(0, (-1, len(mask)))
            scores = (windows + mask[:, None]).flatten(0, 1)
        attention = functional.dropout(scores.softmax(-1), self.attention_dropout, self.training)
        out = self.proj((attention @ v).transpose(1, 2).flatten(2))
        return functional.dropout(out, self.dropout, self.training)


class SlicedWindowAttention(_SlicedWindows, ShiftedWindowAttention):  # type: ignore[misc]
    """torchvision's Swin attention with any number of heads of the dense size."""


class SlicedWindowAttentionV2(_SlicedWindows, ShiftedWindowAttentionV2):  # type: ignore[misc]
    """torchvision's Swin V2 attention with any number of heads of the dense size."""


def _to_windows(x: Tensor, window: list[int]) -> Tensor:
    """(N, H, W, C) to (N * windows, tokens, C)."""
    x = x.unflatten(2, (-1, window[1])).unflatten(1, (-1, window[0]))
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def _from_windows(x: Tensor, window: list[int], size: torch.Size) -> Tensor:
    """The inverse of :func:`_to_windows`, for a feature map of ``size``."""
    rows, columns = size[0] // window[0], size[1] // window[1]
    x = x.unflatten(1, (window[0], window[1])).unflatten(0, (-1, rows, columns))
    return x.transpose(2, 3).flatten(1, 2).flatten(2, 3)


def _window_mask(x: Tensor, window: list[int], shift: list[int]) -> Tensor | None:
    """(windows, tokens, tokens): -100 between tokens that the shift brought side by side."""
    if sum(shift) == 0:
        return None
    region = x.new_zeros(1, *x.shape[1:3], 1)
    for axis, (w, d) in enumerate(zip(window, shift, strict=True)):
        bounds = torch.arange(region.shape[axis + 1], device=x.device)
        end = region.shape[axis + 1]
        label = (bounds >= end - w).long() + ((bounds >= end - d) & (d > 0)).long()
        region = 3 * region + label.view([-1 if i == axis + 1 else 1 for i in range(4)])
    tokens = _to_windows(region, window).squeeze(-1)
    other = tokens[:, :, None] != tokens[:, None, :]
    return torch.zeros_like(other, dtype=x.dtype).masked_fill_(other, -100.0)


class SlicedRelativeAttention(RelativePositionalMultiHeadAttention):  # type: ignore[misc]
    """torchvision's MaxViT attention with any number of heads of the dense size."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, groups, tokens, C) to the same shape."""
        qkv = self.to_qkv(x).unflatten(-1, (3, self.n_heads, self.head_dim))
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)
        scores = q @ (k * self.scale_factor).transpose(-2, -1)
        attention = (scores + self.get_relative_positional_bias()).softmax(-1)
        out: Tensor = self.merge((attention @ v).transpose(2, 3).flatten(3))
        return out
