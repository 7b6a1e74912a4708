"""Deformable convolutions: a convolution whose positions are computed by another one.

Dai et al., "Deformable Convolutional Networks", ICCV 2017; with masks, Zhu et al., "Deformable
ConvNets v2", CVPR 2019. The number of offsets and masks is fixed by the kernel, so that the layers
that compute them stay whole, and lose inputs only.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from amc.tracing.producers import convolve, tie_groups
from amc.tracing.rules import Call, Tracer, reason_of, rule


@rule("torchvision.deform_conv2d")
def deformable(tracer: Tracer, call: Call) -> Any:
    """(N, C, H, W) by an (out, C / groups, kh, kw) weight, as an ordinary convolution.

    Offsets and masks are shared by equal groups of input channels, which have to stay equal.
    """
    x, _weight, offset, mask, bias, stride = call.args[:6]
    groups, offset_groups = call.args[11:13]
    reason = f"one for each position in the kernel of {reason_of(tracer, call)}"
    for values in (offset, mask):
        tracer.ids.freeze(tracer.of(values), reason)
    tie_groups(tracer, tracer.ids.along(tracer.of(x), 1), offset_groups)
    return convolve(tracer, call, bias, stride, groups)


def deformable_layers() -> tuple[type[nn.Module], ...]:
    """Kinds of modules that are deformable convolutions, and state their sizes."""
    if "torchvision" not in sys.modules:  # then no network has one
        return ()
    from torchvision.ops import DeformConv2d

    return (DeformConv2d,)


def state_deformable(module: Any) -> None:
    """Set the size attributes of such a layer from the shape of its weight."""
    first, second = module.weight.shape[:2]
    if module.groups > 1 and module.groups == module.in_channels:  # depthwise
        module.groups = max(1, first // (module.out_channels // module.in_channels))
    module.out_channels, module.in_channels = first, second * module.groups
