"""What decides which kernel computes a convolution: the key under which a verdict is kept."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

_WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 33, 64)
"""Tried where the width may be any: below, on and beside the multiples of 8 and 16 (floats in a
register of AVX2 and AVX-512), and a few of the blocks of registers that kernels are made of."""


@dataclass(frozen=True)
class Convolution:
    """A layer, and how it is run."""

    kind: str
    """The layer's class in ``torch.nn``."""
    in_channels: int
    """0: any (see :meth:`of_any_width`)."""
    out_channels: int
    """Of a depthwise convolution of any width: per input channel."""
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    output_padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int
    """0: depthwise, of any width."""
    bias: bool
    padding_mode: str
    height: int
    width: int
    images: int
    dtype: str
    bf16: bool
    """Under autocast to bfloat16."""
    backward: bool
    threads: int

    def of_any_width(self) -> Convolution:
        """The same geometry with channels left open; large images are cut to the same remainder."""
        depthwise = self.groups > 1 and self.groups == self.in_channels
        return replace(
            self,
            in_channels=0,
            out_channels=self.out_channels // self.in_channels if depthwise else 0,
            groups=0 if depthwise else self.groups,
            height=_cut(self.height),
            width=_cut(self.width),
        )

    def samples(self) -> tuple[Convolution, ...]:
        """What is tried: itself, or widths of every kind where they are open."""
        if self.in_channels:
            return (self,)
        if self.groups == 0:
            return tuple(
                replace(self, in_channels=w, out_channels=w * self.out_channels, groups=w)
                for w in _WIDTHS
            )
        # Each width twice as input, beside two unlike widths as output.
        turned = _WIDTHS[8:] + _WIDTHS[:8]
        pairs = [*zip(_WIDTHS, turned, strict=True), *zip(turned, _WIDTHS[::-1], strict=True)]
        return tuple(
            replace(self, in_channels=i * self.groups, out_channels=o * self.groups)
            for i, o in dict.fromkeys(pairs)
        )


def _cut(side: int) -> int:
    """At most 64 pixels, with the remainder by 16: what is left over where pixels are blocked."""
    return side if side <= 64 else 48 + side % 16


def convolutions(
    model: nn.Module, example: Tensor, *, images: int, bf16: bool, backward: bool
) -> dict[str, set[Convolution]]:
    """Every two-dimensional convolution of ``model`` by the layer's name, as ``example`` runs it.

    One image runs through the network, in eval mode and in the layout that it has.

    Args:
        model: left as it was.
        example: (N, ...), on the model's device.
        images: that a convolution is to be tried with.
        bf16: whether it runs under autocast to bfloat16.
        backward: whether gradients are taken.
    """
    seen: dict[str, set[Convolution]] = defaultdict(set)
    names = {module: name for name, module in layers(model).items()}

    def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        height, width = inputs[0].shape[-2:]
        seen[names[layer]].add(
            Convolution(
                kind="ConvTranspose2d" if isinstance(layer, nn.ConvTranspose2d) else "Conv2d",
                **{name: getattr(layer, name) for name in _OWN},
                bias=layer.bias is not None,
                height=height,
                width=width,
                images=images,
                dtype=str(layer.weight.dtype).removeprefix("torch."),
                bf16=bf16,
                backward=backward,
                threads=torch.get_num_threads(),
            )
        )

    handles = [layer.register_forward_pre_hook(look) for layer in names]
    try:
        with _eval_mode(model), torch.random.fork_rng([]), torch.no_grad():
            model(example[:1])
    finally:
        for handle in handles:
            handle.remove()
    return seen


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that are looked at, by name."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


_OWN = (
    *("in_channels", "out_channels", "kernel_size", "stride", "padding", "output_padding"),
    *("dilation", "groups", "padding_mode"),
)


@contextlib.contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
