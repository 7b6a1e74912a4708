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
from torch.utils.flop_counter import flop_registry

from amc.ids import ChannelIds, compress, core


@dataclass(frozen=True)
class Layer:
    """One operation of the traced forward whose MACs are counted."""

    name: str
    """Path of the module that owns the weight, ``layer1.0.conv1``."""
    kind: str
    """``conv``, ``depthwise``, ``linear``, or ``fixed`` for what is counted but cannot shrink."""
    in_channels: int
    out_channels: int
    kernel: int
    """Side of the kernel (the geometric mean of its sides, rounded); 1 for a linear layer."""
    stride: int
    height: int
    """Of the output; 1 for a linear layer."""
    width: int
    macs: int
    """Multiply-accumulates of the dense layer, for the traced batch."""
    tensor: str
    """The weight; empty where none is stored."""
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
    if move is torch.ops.aten.view.dtype:  # reads the bits anew
        return opaque(tracer, call)
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
    leaves = tree_leaves((call.args, call.kwargs))
    operands = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    cores = [core(tracer.of(operand)) for operand in operands]
    met = torch.zeros([1] * len(shape), dtype=torch.int64)
    for number, (operand, ids) in enumerate(zip(operands, cores, strict=True)):
        if ids.any() and _is_gain(operand, cores[:number] + cores[number + 1 :]):
            tracer.ids.freeze(ids, f"broadcast over channels at {tracer.where()}")
        else:
            tracer.ids.unite(met, ids)
            met = torch.where(met != 0, met, ids)
    return met.expand(shape)


def _is_gain(operand: Tensor, others: list[Tensor]) -> bool:
    """Whether ``operand`` is of size 1 wherever the ids of ``others`` (without constants) change.

    Such an operand, a learned scalar or a map of one channel, serves all channels of the others and
    names none of them.
    """
    changes = {dim - x.dim() for x in others for dim in range(x.dim()) if x.shape[dim] > 1}
    sizes = {dim: operand.shape[dim] for dim in range(-operand.dim(), 0)}
    return bool(changes) and all(sizes.get(dim, 1) == 1 for dim in changes)


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
    if call.operation is torch.ops.aten.max.other or call.operation is torch.ops.aten.min.other:
        return elementwise(tracer, call)
    ids = core(tracer.of(call.args[0]))
    out = tree_leaves(call.out)[0]  # where indices come along, they have the shape of the values
    # The position of `dim` among the arguments differs from one reduction to the next.
    named = zip((x.name for x in call.operation._schema.arguments), call.args, strict=False)
    dims = (dict(named) | call.kwargs).get("dim")
    dims = range(ids.dim()) if dims is None or dims == [] else dims
    dims = [d % max(1, ids.dim()) for d in ([dims] if isinstance(dims, int) else dims)]
    highest = ids.amax(dims, keepdim=True) if ids.dim() else ids
    if ((ids != highest) & (ids != 0)).any():
        return opaque(tracer, call)
    if out.dim() < ids.dim():
        for dim in sorted(dims, reverse=True):
            highest = highest.squeeze(dim)
    return tree_map_only(Tensor, lambda t: highest.expand(t.shape), call.out)


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d")
@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d")
@rule(
    "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d", "_upsample_nearest_exact2d"
)
def resampling(tracer: Tracer, call: Call) -> Any:
    """Pooling and resizing mix positions, never channels: (N, C, ...) or (C, ...) keeps its C."""
    rank = int(str(call.operation.overloadpacket)[-2])  # aten.max_pool2d
    channels = tracer.ids.along(tracer.of(call.args[0]), -rank - 1).view(-1, *[1] * rank)
    return tree_map_only(Tensor, lambda t: channels.expand(t.shape), call.out)


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
@rule("new_ones", "new_empty", "new_full", "zero")
def constant(_: Tracer, call: Call) -> Any:
    """Made from a shape alone: no channel stands behind it."""
    return tree_map_only(Tensor, lambda t: _zeros(t.shape), call.out)


def opaque(tracer: Tracer, call: Call) -> Any:
    """No way to follow the channels: what goes in is frozen, what comes out stays whole."""
    _count_fixed(tracer, call)
    inputs = [tracer.of(t) for t in tree_leaves((call.args, call.kwargs)) if isinstance(t, Tensor)]
    if not any(core(ids).any() for ids in inputs):
        return constant(tracer, call)
    reason = f"{_name_of(call)} at {tracer.where()}"
    for ids in inputs:
        tracer.ids.freeze(ids, reason)
    mark = tracer.ids.opaque(reason)
    return tree_map_only(Tensor, lambda t: mark.expand(t.shape), call.out)


def _count_fixed(tracer: Tracer, call: Call) -> None:
    """What cannot be followed costs what it costs: its inputs are frozen, so that it never shrinks.

    Matrix products of activations, attention, layers whose weight is computed in the forward.
    """
    packet = call.operation.overloadpacket
    if packet is torch.ops.aten.linear:
        macs = prod(call.out.shape) * call.args[1].shape[-1]
    elif packet in flop_registry:
        macs = flop_registry[packet](*call.args, **call.kwargs, out_val=call.out) // 2
    else:
        return
    tracer.layers.append(
        Layer(
            name=f"{_name_of(call)} at {tracer.where()}",
            kind="fixed",
            in_channels=0,
            out_channels=0,
            kernel=1,
            stride=1,
            height=1,
            width=1,
            macs=macs,
            tensor="",
            dims=(),
            macs_per_weight=macs,
        )
    )


def _name_of(call: Call) -> str:
    return str(call.operation.overloadpacket).removeprefix("aten.")


def _zeros(shape: torch.Size) -> Tensor:
    return torch.zeros((), dtype=torch.int64).expand(shape)
