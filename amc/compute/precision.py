"""Numeric mode and layout of a forward."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from amc.errors import ConfigError


def has_fast_bf16(device: torch.device | str) -> bool:
    """Whether the hardware computes in bfloat16, rather than PyTorch emulating it."""
    kind = torch.device(device).type
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind == "cpu" and torch.backends.mkldnn.is_available():
        # Not torch.ops.mkldnn._is_mkldnn_bf16_supported: it accepts slow emulation by AVX-512.
        # Before torch 2.11 there is no public way to ask: float32.
        flags: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(flags.get("avx512_bf16") or flags.get("amx_bf16"))
    return False


def autocast(device: torch.device | str, bf16: bool | None) -> AbstractContextManager[object]:
    """Autocast to bfloat16; with ``bf16`` None wherever :func:`has_fast_bf16`."""
    if has_fast_bf16(device) if bf16 is None else bf16:
        return torch.autocast(torch.device(device).type, torch.bfloat16)
    return nullcontext()


def autocast_for(device: torch.device | str, precision: str) -> AbstractContextManager[object]:
    """Autocast by name: ``fp32`` (none), ``bf16``, ``fp16``, or ``auto`` (:func:`autocast`'s None).

    Raises :class:`ConfigError` for fp16 where there is no CUDA device to compute in it.
    """
    if precision != "fp16":
        return autocast(device, {"auto": None, "fp32": False, "bf16": True}[precision])
    if torch.device(device).type != "cuda":
        raise ConfigError(
            f"precision = fp16 needs a CUDA device, not {torch.device(device)}: "
            "set precision = auto (bf16 where the processor computes in it)"
        )
    return torch.autocast("cuda", torch.float16)


def to_channels_last(images: Tensor) -> Tensor:
    """Images (N, C, H, W) laid out with the channels innermost; other tensors unchanged.

    The layout spreads through a network from its input, so the weights can stay as they are.
    """
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images
