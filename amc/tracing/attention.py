"""Attention modules whose own code counts on heads that are together as wide as the input.

``torch.nn.MultiheadAttention`` and torchvision's Swin and MaxViT compute a head's size from the
width of what comes in. Where that, or the number of heads, has been pruned, such a module gets a
forward of ours that reads both sizes off its weights. Its tensors and their names stay, so a state
dict fits as before.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def rewritten() -> tuple[type[nn.Module], ...]:
    """Kinds of modules that get a forward of ours once they are sliced."""
    if "torchvision" not in sys.modules:  # then no network has any of its modules
        return (nn.MultiheadAttention,)
    from amc.tracing import torchvision_attention

    return (nn.MultiheadAttention, *torchvision_attention.REWRITTEN)


def state_heads(module: Any) -> None:
    """Give ``module`` the forward that its tensors' shapes ask for, if its own no longer fits."""
    if type(module) is nn.MultiheadAttention:
        if module.in_proj_weight is not None:
            _state_multihead(module)
    elif type(module).__module__.startswith("torchvision."):
        from amc.tracing.torchvision_attention import state_torchvision_heads

        state_torchvision_heads(module)
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
