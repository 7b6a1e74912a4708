"""Attention modules whose own code counts on heads that are together as wide as the input.

``torch.nn.MultiheadAttention`` and torchvision's Swin and MaxViT compute a head's size from the
width of what comes in. Where that, or the number of heads, has been pruned, such a module gets a
forward of ours that reads both sizes off its weights. Its tensors and their names stay, so a state
dict fits as before.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.maxvit import RelativePositionalMultiHeadAttention
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2

REWRITTEN = (
    nn.MultiheadAttention,
    ShiftedWindowAttention,
    ShiftedWindowAttentionV2,
    RelativePositionalMultiHeadAttention,
)
"""Modules that get a forward of ours once they are sliced."""


def state_heads(module: Any) -> None:
    """Give ``module`` the forward that its tensors' shapes ask for, if its own no longer fits."""
    if type(module) is nn.MultiheadAttention:
        if module.in_proj_weight is not None:
            _state_multihead(module)
    elif type(module) in (ShiftedWindowAttention, ShiftedWindowAttentionV2):
        if module.qkv.weight.shape[0] != 3 * module.qkv.weight.shape[1]:
            second = type(module) is ShiftedWindowAttentionV2
            module.__class__ = SlicedWindowAttentionV2 if second else SlicedWindowAttention
    elif type(module) is RelativePositionalMultiHeadAttention:
        if module.merge.weight.shape[1] != module.to_qkv.weight.shape[1]:
            module.__class__ = SlicedRelativeAttention
    elif isinstance(module, nn.TransformerEncoder):
        attentions = [getattr(layer, "self_attn", None) for layer in module.layers]
        if any(isinstance(x, SlicedMultiheadAttention) for x in attentions):
            module.use_nested_tensor = False  # its shortcut computes with the dense sizes


def _state_multihead(module: nn.MultiheadAttention) -> None:
    assert module.in_proj_weight is not None
    inner, width = module.in_proj_weight.shape[0] // 3, module.in_proj_weight.shape[1]
    if (inner, width) == (module.embed_dim, module.embed_dim) or module.bias_k is not None:
        return
    module.num_heads = inner // module.head_dim
    module.embed_dim = module.kdim = module.vdim = width
    module._qkv_same_embed_dim = False  # keeps the encoder layer's fused shortcut from it
    module.__class__ = SlicedMultiheadAttention


class SlicedMultiheadAttention(nn.MultiheadAttention):
    """Self-attention or cross-attention with any number of heads of the dense size."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,  # noqa: ARG002 (a hint only: the mask says it all)
    ) -> tuple[Tensor, Tensor | None]:
        """As ``nn.MultiheadAttention``: (N, L, E) or (L, N, E) or (L, E) tensors, boolean or
        additive masks; the weights are None unless asked for."""
        batched = query.dim() == 3
        inputs = [query, key, value]
        if not batched:
            inputs = [x.unsqueeze(0) for x in inputs]
        elif not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        if query is key and key is value:
            inputs = inputs[:1] * 3
        q, k, v = map(self._split, self._project(*inputs))
        mask = self._mask(attn_mask, key_padding_mask, q)
        if need_weights:
            scores = q * self.head_dim**-0.5 @ k.transpose(-2, -1)
            attention = (scores if mask is None else scores + mask).softmax(-1)
            out = functional.dropout(attention, self.dropout, self.training) @ v
        else:
            attention = None
            out = functional.scaled_dot_product_attention(
                q, k, v, mask, self.dropout if self.training else 0.0
            )
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if attention is not None and average_attn_weights:
            attention = attention.mean(1)
        if not batched:
            return out[0], None if attention is None else attention[0]
        return (out if self.batch_first else out.transpose(0, 1)), attention

    def _project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        assert self.in_proj_weight is not None
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if query is key and key is value:
            return functional.linear(query, weight, bias).chunk(3, -1)
        biases = [None] * 3 if bias is None else bias.chunk(3)
        parts = zip((query, key, value), weight.chunk(3), biases, strict=True)
        return tuple(functional.linear(x, w, b) for x, w, b in parts)

    def _split(self, x: Tensor) -> Tensor:
        """(N, L, heads * d) to (N, heads, L, d)."""
        heads: Tensor = x.unflatten(-1, (self.num_heads, self.head_dim))
        return heads.transpose(1, 2)

    def _mask(self, mask: Tensor | None, padding: Tensor | None, like: Tensor) -> Tensor | None:
        """Both masks as one that is added to (N, heads, L, S) scores."""
        total = None if mask is None else _additive(mask, like)
        if total is not None and total.dim() == 3:  # (N * heads, L, S)
            total = total.unflatten(0, (like.shape[0], -1))
        if padding is None:
            return total
        padded = _additive(padding.reshape(like.shape[0], -1), like)[:, None, None]
        return padded if total is None else total + padded


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.dtype is torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(mask, -math.inf)
    return mask.to(like.dtype)


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
