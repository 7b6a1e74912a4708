"""What each operation of a forward does to channel ids: one small rule for each kind.

Operations that only move data are run on the ids themselves, so they need no rule of their own;
elementwise operations unite the ids that meet. Operations with weights are in
``amc.tracing.producers``, those that mix channels (norms, attention) in ``amc.tracing.mixing``. An
operation without a rule makes its inputs frozen and its output opaque: safe, and reported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from amc.tracing import relations
from amc.tracing.ids import ChannelIds, as_rows, compress, core

if TYPE_CHECKING:
    from amc.tracing.labels import Label


@dataclass(frozen=True)
class Layer:
    """One operation of the traced forward whose MACs are counted."""

    name: str
    """Path of the module that owns the weight, ``layer1.0.conv1``."""
    kind: str
    """``conv``, ``depthwise``, ``linear``, ``embedding``, ``product`` (of activations), or
    ``fixed`` for what is counted but cannot shrink."""
    macs: int
    """Multiply-accumulates of the dense layer, for the traced batch."""
    macs_per_weight: int
    """MACs for each product of the kept sizes of ``dims``: kernel area times output positions."""
    tensor: str = ""
    """The weight; for a product the name of its channel count; empty where nothing shrinks."""
    dims: tuple[int, ...] = ()
    """Dimensions of the weight whose kept sizes multiply into the MACs."""
    counted: str = ""
    """What has these dimensions in the weight's place, where a forward uses but a part of it."""
    in_channels: int = 0
    out_channels: int = 0
    kernel: int = 1
    """Side of the kernel (the geometric mean of its sides, rounded)."""
    stride: int = 1
    height: int = 1
    """Of the output's feature map."""
    width: int = 1


class Tracer(Protocol):
    """What a rule may ask of the trace."""

    ids: ChannelIds
    layers: list[Layer]

    def of(self, tensor: Tensor) -> Tensor:
        """Id tensor of an activation, a parameter used as data (ids) or a constant (zeros)."""

    def name_of(self, tensor: Tensor | None) -> str | None:
        """Name of a parameter or buffer of the model; None for anything else."""

    def labels_of(self, tensor: Tensor) -> tuple[Label, ...] | None:
        """The labels of what is made of stored tensors alone; None for anything else."""

    def each_of(self, tensor: Tensor) -> list[Tensor]:
        """All id tensors of ``tensor``: those of its labels, if it has any, else its own."""

    def places(self, tensor: Tensor, ids: Tensor, reason: str) -> None:
        """``tensor`` says where among ``ids`` something stands: if it is used, these stay."""

    def where(self) -> str:
        """The line of the user's model that is being executed."""


@dataclass(frozen=True)
class Call:
    """One executed operation: the ATen overload, its arguments, and its real result."""

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any
    place: str
    """What is the same wherever the network runs on these inputs: ``mean (3)``, the third mean."""


Rule = Callable[[Tracer, Call], Any]
"""From a call to the id tensors of its result, in the result's structure."""

RULES: dict[str, Rule] = {}
Entry = TypeVar("Entry")


def registered(table: dict[str, Entry], names: tuple[str, ...]) -> Callable[[Entry], Entry]:
    """Put a function into ``table`` for the operations NAME, in place (``NAME_``) or not.

    A name without a namespace is ATen's.
    """

    def register(function: Entry) -> Entry:
        for name in names:
            full = name if "." in name else f"aten.{name}"
            table[full] = table[f"{full}_"] = function
        return function

    return register


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of operations."""
    return registered(RULES, names)


def find_rule(operation: Any) -> Rule | None:
    """The rule of an ATen operation; None where there is none."""
    found = RULES.get(str(operation.overloadpacket))
    if found is None and torch.Tag.pointwise in operation.tags:
        return elementwise
    return found


@rule("permute", "transpose", "t", "movedim", "flatten")
@rule("squeeze", "unsqueeze", "expand", "expand_as", "repeat", "alias", "detach")
@rule("cat", "concat", "stack", "split", "split_with_sizes", "unbind", "select")
@rule("unsafe_split", "unsafe_split_with_sizes")
@rule("narrow", "index", "index_select", "roll", "flip", "clone", "contiguous", "repeat_interleave")
@rule("pixel_shuffle", "pixel_unshuffle", "tensor_split", "swapaxes", "tile")
def movement(tracer: Tracer, call: Call) -> Any:
    """Data movement is executed for real, on the ids."""
    return _move(tracer, call, call.operation)


@rule("view", "_unsafe_view", "reshape", "unflatten")
def view(tracer: Tracer, call: Call) -> Any:
    """A new shape; where it splits a dimension of channels, their number must stay divisible."""
    if call.operation is torch.ops.aten.view.dtype:  # reads the bits anew
        return opaque(tracer, call)
    ids = core(tracer.of(call.args[0]))
    varying = [dim for dim in range(ids.dim()) if ids.shape[dim] > 1]
    if len(varying) == 1:
        factors = _factors(call.args[0].shape, varying[0], call.out.shape)
        if len(factors) > 1:
            relations.split(tracer.ids, ids.reshape(factors))
    # Ids need not be as contiguous as the data: view becomes reshape.
    return compress(tracer.of(call.args[0]).reshape(call.out.shape))


def _factors(before: torch.Size, dim: int, after: torch.Size) -> list[int]:
    """The sizes above 1 that dimension ``dim`` becomes; none where it is merged with others."""
    start, stop = prod(before[:dim]), prod(before[: dim + 1])
    factors, done = [], 1
    for size in after:
        if start <= done < stop and size > 1:
            factors.append(size)
        done *= size
    return factors if prod(factors) == before[dim] else []


@rule("chunk", "unsafe_chunk")
def chunk(tracer: Tracer, call: Call) -> Any:
    """Equal pieces: they stay equal only if they lose the same channels."""
    ids, pieces = tracer.of(call.args[0]), call.args[1]
    dim = (call.args[2] if len(call.args) > 2 else 0) % max(1, ids.dim())
    if core(ids).shape[dim] > 1 and ids.shape[dim] % pieces == 0:
        relations.split(tracer.ids, torch.stack(core(ids).chunk(pieces, dim)).flatten(1))
    return _move(tracer, call, call.operation)


def _move(tracer: Tracer, call: Call, move: Any) -> Any:
    name = str(call.operation.overloadpacket)
    indices = call.args[1:] if name in ("aten.index", "aten.index_select") else ()
    indices = tree_map_only(Tensor, Tensor.cpu, indices)  # ids live there, wherever the network is
    moved = tree_map_only(Tensor, tracer.of, call.args[: len(call.args) - len(indices)])
    return tree_map_only(Tensor, compress, move(*moved, *indices, **call.kwargs))


@rule("dropout", "feature_dropout", "alpha_dropout", "hardswish", "gelu", "elu", "leaky_relu")
@rule(
    "softplus",
    "_to_copy",
    "to",
    "copy",
    "triu",
    "tril",
    "relu6",
    "selu",
    "celu",
    "mish",
    "log_sigmoid",
    "fill",
)
def elementwise(tracer: Tracer, call: Call) -> Any:
    """Ids that meet are united; where one side has none, the other's pass on."""
    if not isinstance(call.out, Tensor):
        return opaque(tracer, call)
    shape = call.out.shape
    leaves = tree_leaves((call.args, call.kwargs))
    operands = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    labels = [tracer.labels_of(operand) for operand in operands]
    cores = [
        core(tracer.of(x)) if y is None else None for x, y in zip(operands, labels, strict=True)
    ]
    known = [ids for ids in cores if ids is not None]
    met = torch.zeros([1] * len(shape), dtype=torch.int64)
    followers = []
    for operand, ids in zip(operands, cores, strict=True):
        if ids is None:
            continue
        if ids.any() and tracer.ids.weak(ids):
            followers.append(ids)
        elif ids.any() and _is_gain(operand, [x for x in known if x is not ids]):
            tracer.ids.freeze(ids, f"broadcast over channels at {tracer.where()}")
        else:
            tracer.ids.unite(met, ids)
            met = torch.where(met != 0, met, ids)
    for ids in followers:
        met = _follow(tracer, ids, met)
    for operand, found in zip(operands, labels, strict=True):
        if found is not None and met.any():
            for label in found:
                tracer.ids.later(relations.Broadcast(label.ids, met))
        elif found:
            met = _follow(tracer, core(tracer.of(operand)), met)
    return met.expand(shape)


def _follow(tracer: Tracer, weak: Tensor, met: Tensor) -> Tensor:
    """``met``, and ``weak`` ids where there is none: they meet, and which follow is seen later."""
    if met.any():
        tracer.ids.later(relations.Broadcast(weak, met))
    return torch.where(met != 0, met, weak)


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
        ride_along(tracer, call.args[1], 0, tracer.ids.along(ids, 1))
    return ids


@rule("batch_norm", "instance_norm")
def batch_norm(tracer: Tracer, call: Call) -> Tensor:
    """Scale, shift and running statistics ride along with their channel."""
    ids = tracer.of(call.args[0])
    others = [dim for dim in range(2, ids.dim()) if core(ids).shape[dim] > 1]
    if others and core(ids).shape[1] == 1:  # a weight is standardised over its inputs
        relations.reduced(tracer.ids, ids, others, call.place, reason_of(tracer, call))
        return ids
    channels = tracer.ids.along(ids, 1)
    for tensor in call.args[1:5]:
        if tensor is not None:
            ride_along(tracer, tensor, 0, channels)
            channels = torch.where(channels != 0, channels, tracer.of(tensor))
    return ids if ids.any() else channels.view(-1, *[1] * (ids.dim() - 2)).expand(ids.shape)


@rule("_weight_norm_interface")
def weight_norm(tracer: Tracer, call: Call) -> Any:
    """g v / norm(v), the norm over all dimensions but one (Salimans and Kingma, 2016)."""
    direction, gain, dim = (*call.args, 0)[:3]
    ids = core(tracer.of(direction))
    others = [d for d in range(ids.dim()) if d != dim % ids.dim() and ids.shape[d] > 1]
    if others:
        relations.reduced(tracer.ids, ids, others, call.place, reason_of(tracer, call))
        return ids.expand(direction.shape), _zeros(gain.shape)
    met = torch.where(ids != 0, ids, core(tracer.of(gain)))
    return met.expand(direction.shape), met.expand(gain.shape)


def ride_along(tracer: Tracer, tensor: Tensor, dim: int, channels: Tensor) -> None:
    """``tensor``, stored or computed, holds along ``dim`` a value for each of ``channels``."""
    name = tracer.name_of(tensor)
    if name is None:  # computed in the forward: follow what it was made of
        tracer.ids.unite(channels, tracer.of(tensor))
    else:
        tracer.ids.use(name, dim, "affine", channels)


@rule("softmax", "log_softmax", "_softmax", "cumsum", "cumprod")
def mixing(tracer: Tracer, call: Call) -> Any:
    """Channels along the dimension become one: they go together, or not at all."""
    ids = core(tracer.of(call.args[0]))
    dim = call.args[1] % max(1, ids.dim())
    if not ids.dim() or ids.shape[dim] == 1:
        return ids.expand(call.out.shape)
    rows = as_rows(ids, dim).T
    tied = [tracer.ids.tie(row, reason_of(tracer, call)) for row in rows]
    return torch.stack(tied).reshape(ids.amax(dim, keepdim=True).shape).expand(call.out.shape)


@rule("mean", "sum", "amax", "amin", "max", "min", "var", "std", "norm", "prod", "var_mean")
@rule("std_mean", "linalg_vector_norm", "logsumexp", "frobenius_norm", "nanmean", "median")
@rule("argmax", "argmin")
def reduction(tracer: Tracer, call: Call) -> Any:
    """A statistic over channels is one of those that are kept (:class:`relations.Reduced`)."""
    if call.operation is torch.ops.aten.max.other or call.operation is torch.ops.aten.min.other:
        return elementwise(tracer, call)
    ids = core(tracer.of(call.args[0]))
    # The position of `dim` among the arguments differs from one reduction to the next.
    named = zip((x.name for x in call.operation._schema.arguments), call.args, strict=False)
    dims = (dict(named) | call.kwargs).get("dim")
    dims = range(ids.dim()) if dims is None or dims == [] else dims
    dims = [d % max(1, ids.dim()) for d in ([dims] if isinstance(dims, int) else dims)]
    kept = relations.reduced(tracer.ids, ids, dims, call.place, reason_of(tracer, call))
    small = kept.amax(dims, keepdim=True) if ids.dim() else kept

    def result(out: Tensor) -> Tensor:
        found = small
        if not out.is_floating_point() and call.args[0].is_floating_point():
            tracer.places(out, ids, reason_of(tracer, call))
        if out.dim() < ids.dim():
            for dim in sorted(dims, reverse=True):
                found = found.squeeze(dim)
        return found.expand(out.shape)

    return tree_map_only(Tensor, result, call.out)


@rule("index_put", "_index_put_impl")
def index_put(tracer: Tracer, call: Call) -> Any:
    """Rows written into a tensor, by their place along the first dimension."""
    target, indices, values = call.args[:3]
    if len(indices) != 1 or values.dim() != target.dim():
        return opaque(tracer, call)
    below, above = tracer.of(target), tracer.of(values)
    if not values.numel():
        return below
    if any(core(x).shape[:1] not in ((), (1,)) for x in (below, above)):
        return opaque(tracer, call)
    below, above = core(below), core(above)
    tracer.ids.unite(below, above)
    return torch.where(below != 0, below, above).expand(call.out.shape)


@rule("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "zero")
@rule("bernoulli", "normal", "uniform")
def alike(tracer: Tracer, call: Call) -> Any:
    """A constant in an activation's shape: it has to stay as wide."""
    return tree_map_only(Tensor, lambda _: tracer.of(call.args[0]), call.out)


@rule("new_zeros", "new_ones", "new_empty", "new_full")
def constant(_: Tracer, call: Call) -> Any:
    """Made from sizes alone: no channel stands behind it, unless code took a size from one."""
    return tree_map_only(Tensor, lambda t: _zeros(t.shape), call.out)


def opaque(tracer: Tracer, call: Call) -> Any:
    """No way to follow the channels: what goes in is frozen, what comes out stays whole."""
    tensors = [x for x in tree_leaves((call.args, call.kwargs)) if isinstance(x, Tensor)]
    inputs = [ids for x in tensors for ids in tracer.each_of(x)]
    if not any(core(ids).any() for ids in inputs):
        return constant(tracer, call)
    reason = reason_of(tracer, call)
    for ids in inputs:
        tracer.ids.freeze(ids, reason)
    mark = tracer.ids.opaque(reason)
    return tree_map_only(Tensor, lambda t: mark.expand(t.shape), call.out)


def count(
    tracer: Tracer, name: str, macs: int, ids: Tensor | None = None, kind: str = "product"
) -> None:
    """Count an operation whose cost is in proportion to the channels in its result, ``ids``.

    Without channels it is ``fixed``: what cannot be followed costs what it costs, and as its inputs
    are frozen it never shrinks.
    """
    channels = torch.zeros(1) if ids is None else core(ids).flatten()
    if channels.any():
        name = f"{name} ({len(tracer.layers)})"
        tracer.ids.use(name, 0, "count", channels)
        layer = Layer(name, kind, macs, macs // len(channels), tensor=name, dims=(0,))
    else:
        layer = Layer(name, "fixed", macs, macs)
    tracer.layers.append(layer)


def reason_of(tracer: Tracer, call: Call) -> str:
    """The operation, and the line of the user's model that calls it."""
    return f"{str(call.operation.overloadpacket).removeprefix('aten.')} at {tracer.where()}"


def _zeros(shape: torch.Size) -> Tensor:
    return torch.zeros((), dtype=torch.int64).expand(shape)
