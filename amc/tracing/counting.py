"""What operations cost that no rule has counted.

A rule counts what it can follow, so that the count shrinks with the channels. Whatever it leaves is
counted here by the sizes of the operands, as something that stays: PyTorch's own counter is the
floor, formulas for more operations stand beside it. An operation that is in neither, and does not
look like one whose arithmetic is in proportion to its elements, is reported instead of passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from amc.tracing.rules import Call, Tracer, count, find_rule, reason_of, registered

Formula = Callable[[Call], int]
"""Multiply-accumulates of one call, by the shapes of its operands."""

FORMULAS: dict[str, Formula] = {}


def formula(*names: str) -> Callable[[Formula], Formula]:
    """Register the formula of operations."""
    return registered(FORMULAS, names)


class Counting:
    """Completes the count of one traced forward, operation by operation."""

    def __init__(self, stored: Callable[[Tensor], bool]) -> None:
        """``stored`` tells a network's own tensors from others."""
        self.uncounted: dict[str, None] = {}
        """Operations whose arithmetic is not counted, with their place in the user's code."""
        self._stored = stored
        self._computed: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def complete(self, tracer: Tracer, call: Call, before: int) -> None:
        """Count what is missing; ``tracer`` had ``before`` layers when the call began.

        What is computed from stored tensors alone (the norm of a weight) does not grow with the
        input, and a deployed network has its result: of that only PyTorch's own count is taken.
        """
        inputs = [x for x in tree_leaves((call.args, call.kwargs)) if isinstance(x, Tensor)]
        constant = bool(inputs) and all(self._stored(x) or x in self._computed for x in inputs)
        if constant:
            for result in tree_leaves(call.out):
                if isinstance(result, Tensor):
                    self._computed[result] = True
        macs = macs_of(call, constant)
        if macs is not None:
            missing = macs - sum(layer.macs for layer in tracer.layers[before:])
            if missing > 0:
                count(tracer, reason_of(tracer, call), missing)
        elif not constant and is_unknown(call.operation, inputs):
            self.uncounted.setdefault(reason_of(tracer, call))


def macs_of(call: Call, constant: bool = False) -> int | None:
    """Multiply-accumulates of an operation; None where neither PyTorch nor we have a formula.

    ``constant``: PyTorch's count only.
    """
    packet = call.operation.overloadpacket
    own = FORMULAS.get(str(packet))
    if own is not None and not constant:
        return own(call)
    if packet in flop_registry:
        return int(flop_registry[packet](*call.args, **call.kwargs, out_val=call.out)) // 2
    return None


def is_unknown(operation: Any, inputs: Sequence[Tensor]) -> bool:
    """Whether nothing says that an operation's arithmetic is in proportion to its elements."""
    if not any(x.is_floating_point() or x.is_complex() for x in inputs):
        return False
    name = str(operation.overloadpacket)
    proportional = {torch.Tag.pointwise, torch.Tag.reduction} & {*operation.tags}
    aliases = [result.alias_info for result in operation._schema.returns]
    view = name.startswith("aten.") and any(alias and not alias.is_write for alias in aliases)
    known = name.removesuffix("_") in _PROPORTIONAL or find_rule(operation) is not None
    return not (proportional or view or known)


@formula("linear", "matmul", "mm", "bmm", "inner", "_int_mm")
def _product(call: Call) -> int:
    """Each result sums over the last dimension of the left operand."""
    return prod((*call.out.shape, call.args[0].shape[-1]))


@formula("mv", "dot", "vdot")
def _with_vector(call: Call) -> int:
    return int(call.args[0].numel())


@formula("addmv", "addbmm")
def _added(call: Call) -> int:
    """(n, m) times (m), or (b, n, m) times (b, m, p), summed over the batch."""
    left, right = call.args[1:3]
    return int(left.numel()) * (1 if right.dim() == 1 else int(right.shape[-1]))


@formula("addr")
def _outer(call: Call) -> int:
    return prod(tuple(call.out.shape))


@formula("_trilinear")
def _bilinear(call: Call) -> int:
    """x^T W y, ``bilinear`` for (n, i), (o, i, j), (n, j): the left product, then the right one.

    All three operands are brought to one shape, with ones at the dimensions ``expand``; the first
    two are multiplied and summed over those summed dimensions that the third one lacks.
    """
    tensors, absent, summed = call.args[:3], call.args[3:6], call.args[6]
    rank = tensors[0].dim() + len(absent[0])
    sizes = [1] * rank
    for tensor, expanded in zip(tensors, absent, strict=True):
        dims = [dim for dim in range(rank) if dim not in expanded]
        for dim, size in zip(dims, tensor.shape, strict=True):
            sizes[dim] = max(sizes[dim], size)
    first = prod(size for dim, size in enumerate(sizes) if dim not in ({*absent[0]} & {*absent[1]}))
    early = {dim for dim in summed if dim in absent[2]}
    second = prod(size for dim, size in enumerate(sizes) if dim not in early)
    return first + second


@formula("_cdist_forward", "_euclidean_dist")
def _distances(call: Call) -> int:
    """(b, p, m) and (b, r, m): a difference and its power for each of b * p * r * m."""
    return prod((*call.out.shape, call.args[0].shape[-1]))


@formula("conv_tbc")
def _conv_tbc(call: Call) -> int:
    """(time, batch, out) results, each of a (kernel, in, out) weight."""
    kernel, channels = call.args[1].shape[:2]
    return prod((*call.out.shape, kernel, channels))


@formula("torchvision.deform_conv2d")
def _deformable(call: Call) -> int:
    """As a convolution; sampling the positions is an interpolation, and is not counted."""
    return prod((*call.out.shape, *call.args[1].shape[1:]))


@formula("scaled_dot_product_attention")
def _attention(call: Call) -> int:
    """q k^T and the product with v, over (..., tokens, d); grouped keys serve several heads."""
    query, key, value = call.args[:3]
    return int(query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


@formula("gru", "lstm", "rnn_tanh", "rnn_relu")
def _recurrent(call: Call) -> int:
    """Every matrix once for each step of each sequence.

    (PyTorch's own counter finds no FLOPs in an LSTM on a CPU.)
    """
    parameters = [x for x in call.args if isinstance(x, tuple | list) and len(x)][-1]
    matrices = sum(int(x.numel()) for x in parameters if x.dim() > 1)
    return prod((*call.args[0].shape[:-1], matrices))


_MADE_OR_MOVED = """
empty_like new_empty_strided lift lift_fresh randint_like normal uniform random bernoulli
exponential geometric cauchy log_normal multinomial poisson native_dropout copy copy_ _to_copy
gather scatter scatter_add scatter_reduce index_add index_fill index_reduce index_copy
masked_select masked_scatter take put _unsafe_index _unsafe_index_put _unsafe_masked_index
nonzero nonzero_static diag_embed tril triu trace rot90 block_diag select_scatter slice_scatter
diagonal_scatter as_strided_scatter unsafe_split unsafe_split_with_sizes _stack complex polar
resize _pin_memory reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d
replication_pad2d replication_pad3d _pack_padded_sequence set view_as_real view_as_complex
embedding_bag _embedding_bag _embedding_bag_forward_only embedding_renorm to_padded_tensor
_padded_dense_to_jagged_forward _jagged_to_padded_dense_forward is_same_size
"""

_REDUCED_OR_SORTED = """
aminmax _aminmax argmax argmin any all argsort cummax cummin cumprod logcumsumexp dist histc
bincount histogram searchsorted bucketize isin kthvalue median nanmedian mode sort topk
unique_consecutive unique_dim _unique2 equal allclose item _local_scalar_dense _is_all_true
_is_any_true _assert_async segment_reduce renorm linalg_cross
"""

_NORMS_AND_SAMPLING = """
native_group_norm native_layer_norm _native_batch_norm_legit native_batch_norm
_native_batch_norm_legit_no_training _batch_norm_no_update _weight_norm_interface
_fused_rms_norm _safe_softmax _masked_softmax softmax log_softmax _log_softmax
log_sigmoid_forward rrelu_with_noise binary_cross_entropy mse_loss huber_loss smooth_l1_loss
nll_loss_forward _adaptive_avg_pool2d _adaptive_avg_pool3d max_pool2d_with_indices
max_pool3d_with_indices fractional_max_pool2d fractional_max_pool3d max_unpool2d max_unpool3d
grid_sampler_2d grid_sampler_3d _grid_sampler_2d_cpu_fallback cudnn_grid_sampler
affine_grid_generator _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_lanczos2d_aa
torchvision.nms torchvision.roi_align torchvision.roi_pool torchvision.ps_roi_align
torchvision.ps_roi_pool
"""

_PROPORTIONAL = {
    name if "." in name else f"aten.{name}"
    for name in (_MADE_OR_MOVED + _REDUCED_OR_SORTED + _NORMS_AND_SAMPLING).split()
}
"""Operations without a rule whose arithmetic is in proportion to what they read and write.

PyTorch's counter finds none in them either. (A Fourier transform, n log(n), is reported as not
counted.)"""
