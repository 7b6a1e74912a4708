"""What each operation of a forward does to channel ids: one small rule for each kind.

Operations that only move data are run on the ids themselves, so they need no rule of their own;
elementwise operations unite the ids that meet; producers (convolution, linear) note which ids feed
which slice of their weight and hand out fresh ones. An operation without a rule makes its inputs
frozen and its output opaque: safe, and reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from amc.ids import ChannelIds, compress, core


@dataclass(frozen=True)
class Layer:
    """One operation of the traced forward whose MACs are counted."""

    name: str
    """Path of the module that owns the weight, ``layer1.0.conv1``."""
    kind: str
    """``conv``, ``depthwise`` or ``linear``."""
    in_channels: int
    out_channels: int
    kernel: int
    """Square root of the kernel's area, rounded; 1 for a linear layer."""
    stride: int
    height: int
    """Of the output; 1 for a linear layer."""
    width: int
    macs: int
    """Multiply-accumulates of the dense layer, for the traced batch."""
    tensor: str
    """The weight."""
    dims: tuple[int, ...]
    """Dimensions of the weight whose kept sizes multiply into the MACs."""
    macs_per_weight: int
    """MACs for each product of those sizes: kernel area times output positions."""


class Tracer(Protocol):
    """What a rule may ask of the trace."""

    ids: ChannelIds
    layers: list[Layer]

    def of(self, tensor: Tensor) -> Tensor:
        """Id tensor of an activation, a parameter used as data (ids) or a constant (zeros)."""

    def name_of(self, tensor: Tensor | None) -> str | None:
        """Name of a parameter or buffer of the model; None for anything else."""

    def where(self) -> str:
        """The line of the user's model that is being executed."""


@dataclass(frozen=True)
class Call:
    """One executed operation: the ATen overload, its arguments, and its real result."""

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any


Rule = Callable[[Tracer, Call], Any]
"""From a call to the id tensors of its result, in the result's structure."""

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of the operations ``aten.NAME``, in place (``NAME_``) or not."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[f"aten.{name}"] = RULES[f"aten.{name}_"] = function
        return function

    return register


def find_rule(operation: Any) -> Rule | None:
    """The rule of an ATen operation; None where there is none."""
    found = RULES.get(str(operation.overloadpacket))
    if found is None and torch.Tag.pointwise in operation.tags:
        return elementwise
    return found


@rule("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "movedim", "flatten")
@rule("unflatten", "squeeze", "unsqueeze", "expand", "expand_as", "repeat", "alias", "detach")
@rule("cat", "concat", "stack", "split", "split_with_sizes", "chunk", "unbind", "select", "slice")
@rule("narrow", "index", "index_select", "roll", "flip", "clone", "contiguous", "repeat_interleave")
@rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "tensor_split", "swapaxes", "tile")
def movement(tracer: Tracer, call: Call) -> Any:
    """Data movement is executed for real, on the ids."""
    name = str(call.operation.overloadpacket)
    move = call.operation
    if name in ("aten.view", "aten._unsafe_view"):  # ids need not be as contiguous as the data
        move = torch.ops.aten.reshape.default
    indices = call.args[1:] if name in ("aten.index", "aten.index_select") else ()
    moved = tree_map_only(Tensor, tracer.of, call.args[: len(call.args) - len(indices)])
    return tree_map_only(Tensor, compress, move(*moved, *indices, **call.kwargs))


@rule("pad", "constant_pad_nd")
def pad(tracer: Tracer, call: Call) -> Tensor:
    """Constant padding brings in elements without a channel; the other modes repeat ids."""
    named = call.operation is torch.ops.aten.pad.default and len(call.args) > 2
    mode = call.args[2] if named else "constant"
    # Ids are integers, for which the reflecting kernels do not exist.
    ids = tracer.of(call.args[0]).to(torch.float64)
    return compress(torch.nn.functional.pad(ids, call.args[1], mode).to(torch.int64))


@rule("dropout", "feature_dropout", "alpha_dropout", "hardswish", "gelu", "elu", "leaky_relu")
@rule("softplus", "_to_copy", "to", "relu6", "selu", "celu", "mish", "log_sigmoid", "fill")
def elementwise(tracer: Tracer, call: Call) -> Any:
    """Ids that meet are united; where one side has none, the other's pass on."""
    if not isinstance(call.out, Tensor):
        return opaque(tracer, call)
    shape = call.out.shape
    met = torch.zeros([1] * len(shape), dtype=torch.int64)
    for operand in tree_leaves((call.args, call.kwargs)):
        if isinstance(operand, Tensor):
            ids = core(tracer.of(operand))
            tracer.ids.unite(met, ids)
            met = torch.where(met != 0, met, ids)
    return met.expand(shape)


@rule("prelu", "_prelu_kernel")
def prelu(tracer: Tracer, call: Call) -> Tensor:
    """A slope for each channel rides along; a single slope serves all."""
    ids = tracer.of(call.args[0])
    if call.args[1].numel() > 1:
        _ride_along(tracer, call.args[1], 0, tracer.ids.along(ids, 1))
    return ids


@rule("batch_norm")
def batch_norm(tracer: Tracer, call: Call) -> Tensor:
    """Scale, shift and running statistics ride along with their channel."""
    ids = tracer.of(call.args[0])
    channels = tracer.ids.along(ids, 1)
    for tensor in call.args[1:5]:
        if tensor is not None:
            _ride_along(tracer, tensor, 0, channels)
    return ids


def _ride_along(tracer: Tracer, tensor: Tensor, dim: int, channels: Tensor) -> None:
    name = tracer.name_of(tensor)
    if name is None:  # computed in the forward: follow what it was made of
        tracer.ids.unite(channels, tracer.of(tensor))
    else:
        tracer.ids.use(name, dim, "affine", channels)


@rule("mean", "sum", "amax", "amin", "max", "min", "var", "std", "norm", "softmax", "log_softmax")
@rule("cumsum", "linalg_vector_norm", "logsumexp")
def reduction(tracer: Tracer, call: Call) -> Any:
    """Ids pass where they do not change along what is reduced; otherwise channels are mixed."""
    ids = tracer.of(call.args[0])
    shape = ids.shape
    dims = call.args[1] if len(call.args) > 1 else call.kwargs.get("dim")
    if not isinstance(call.out, Tensor) or isinstance(dims, Tensor):
        return opaque(tracer, call)
    dims = range(ids.dim()) if dims is None or dims == [] else dims
    dims = [d % ids.dim() for d in ([dims] if isinstance(dims, int) else dims)]
    highest = core(ids).amax(dims, keepdim=True)
    if ((core(ids) != highest) & (core(ids) != 0)).any():
        return opaque(tracer, call)
    if call.out.shape == shape:
        return highest.expand(shape)
    if call.out.dim() == len(shape):
        return highest.expand(call.out.shape)
    for dim in sorted(dims, reverse=True):
        highest = highest.squeeze(dim)
    return highest.expand(call.out.shape)


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d")
@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d")
@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d")
@rule(
    "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d", "_upsample_nearest_exact2d"
)
def resampling(tracer: Tracer, call: Call) -> Any:
    """Pooling and resizing mix positions, never channels: (N, C, ...) keeps its C."""
    if not isinstance(call.out, Tensor):
        return opaque(tracer, call)
    channels = tracer.ids.along(tracer.of(call.args[0]), 1)
    return channels.view(1, -1, *[1] * (call.out.dim() - 2)).expand(call.out.shape)


@rule("linear")
def linear(tracer: Tracer, call: Call) -> Any:
    """(..., K) times an (N, K) weight: consumes ids along the last dimension, makes new ones."""
    weight, bias = call.args[1], call.args[2] if len(call.args) > 2 else None
    name = tracer.name_of(weight)
    if name is None:
        return opaque(tracer, call)
    features_out, features_in = weight.shape
    tracer.ids.use(name, 1, "in", tracer.ids.along(tracer.of(call.args[0]), -1))
    produced = _produce(tracer, name, 0, tracer.ids.fresh(features_out), bias)
    positions = prod(call.out.shape[:-1])
    tracer.layers.append(
        Layer(
            name=_owner(name),
            kind="linear",
            in_channels=features_in,
            out_channels=features_out,
            kernel=1,
            stride=1,
            height=1,
            width=1,
            macs=positions * weight.numel(),
            tensor=name,
            dims=(0, 1),
            macs_per_weight=positions,
        )
    )
    return produced.expand(call.out.shape)


@rule("convolution", "_convolution")
def convolution(tracer: Tracer, call: Call) -> Any:
    """Convolutions of any rank: plain, transposed, grouped and depthwise."""
    x, weight, bias, stride, _padding, _dilation, transposed, _output_padding, groups = call.args[
        :9
    ]
    name = tracer.name_of(weight)
    if name is None:
        return opaque(tracer, call)
    consumed = tracer.ids.along(tracer.of(x), 1)
    in_channels, out_channels = x.shape[1], call.out.shape[1]
    depthwise = groups > 1 and groups == in_channels
    out_dim, in_dim = (1, 0) if transposed else (0, 1)
    if depthwise and not transposed:
        channels = consumed.repeat_interleave(out_channels // in_channels)
        tracer.ids.use(name, 0, "affine", channels)
        produced = _ride_bias(tracer, bias, channels)
    elif groups > 1 and transposed:
        return opaque(tracer, call)
    else:
        consumed = _tie_groups(tracer, consumed, groups)
        tracer.ids.use(name, in_dim, "in", consumed[: in_channels // groups])
        fresh = tracer.ids.fresh(out_channels)
        _tie_groups(tracer, fresh, groups)
        produced = _produce(tracer, name, out_dim, fresh, bias)
    positions = prod((x if transposed else call.out).shape[2:]) * call.out.shape[0]
    area = prod(weight.shape[2:])
    tracer.layers.append(
        Layer(
            name=_owner(name),
            kind="depthwise" if depthwise else "conv",
            in_channels=in_channels,
            out_channels=out_channels,
            kernel=round(area ** (1 / max(1, weight.dim() - 2))),
            stride=int(stride[0]),
            height=call.out.shape[2],
            width=prod(call.out.shape[3:]),
            macs=positions * weight.numel(),
            tensor=name,
            dims=(0, 1),
            macs_per_weight=positions * area,
        )
    )
    return produced.view(1, -1, *[1] * (call.out.dim() - 2)).expand(call.out.shape)


def _tie_groups(tracer: Tracer, channels: Tensor, groups: int) -> Tensor:
    """Groups stay equally wide only if the i-th channel of each goes together with the others'."""
    rows = channels.reshape(groups, -1)
    tracer.ids.unite(rows[:1], rows)
    return channels


def _produce(tracer: Tracer, name: str, dim: int, fresh: Tensor, bias: Tensor | None) -> Tensor:
    return _ride_bias(tracer, bias, tracer.ids.use(name, dim, "out", fresh))


def _ride_bias(tracer: Tracer, bias: Tensor | None, channels: Tensor) -> Tensor:
    if bias is not None:
        _ride_along(tracer, bias, 0, channels)
    return channels


def _owner(parameter: str) -> str:
    return parameter.rpartition(".")[0] or parameter


@rule("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "new_zeros")
@rule("new_ones", "new_empty", "new_full", "zero", "size", "sym_size")
def constant(_: Tracer, call: Call) -> Any:
    """Made from a shape alone: no channel stands behind it."""
    return tree_map_only(Tensor, lambda t: _zeros(t.shape), call.out)


def opaque(tracer: Tracer, call: Call) -> Any:
    """No way to follow the channels: what goes in is frozen, what comes out stays whole."""
    inputs = [tracer.of(t) for t in tree_leaves((call.args, call.kwargs)) if isinstance(t, Tensor)]
    if not any(core(ids).any() for ids in inputs):
        return constant(tracer, call)
    reason = f"{str(call.operation.overloadpacket).removeprefix('aten.')} at {tracer.where()}"
    for ids in inputs:
        tracer.ids.freeze(ids, reason)
    mark = tracer.ids.opaque(reason)
    return tree_map_only(Tensor, lambda t: mark.expand(t.shape), call.out)


def _zeros(shape: torch.Size) -> Tensor:
    return torch.zeros(1, dtype=torch.int64).expand(shape)
