"""The masked twin: the dense network, in which nobody reads the channels that a plan removes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from amc.pruning.slicing.slice import kept_indices
from amc.tracing.trace import named_tensors, unfused_attention
from amc.tracing.units import Units


@contextmanager
def masked(model: nn.Module, units: Units, widths: Sequence[int]) -> Iterator[nn.Module]:
    """The masked twin: ``model`` itself, for a while, in inference mode.

    Every weight slice that consumes a removed channel is zero inside the context, and norms over
    channels are computed over those that are kept. On leaving, the weights are the ones from
    before: they are exchanged, never written to.
    """
    tensors = dict(named_tensors(model))
    kept = kept_indices(units, widths)
    cut = {(name, dim): index for name, dims in kept.items() for dim, index in dims}
    readers = {(s.tensor, s.dim) for unit in units for s in unit.slots if s.purpose == "in"}
    readers &= cut.keys()
    norms = {id(tensors[name]): dims[0] for name, dims in kept.items() if name in tensors}
    kernels = {}
    saved = {name: tensors[name].data for name, _ in readers}
    try:
        for name, dim in readers:
            weight = tensors[name]
            keep = torch.zeros(weight.shape[dim], dtype=weight.dtype, device=weight.device)
            keep[cut[name, dim]] = 1
            weight.data = weight.data * keep.view(-1, *[1] * (weight.dim() - dim - 1))
        for name, dim in readers:
            if dim == 1:
                inputs = (tensors[name].shape[1], cut[name, dim])
                kernels[tensors[name].data_ptr()] = inputs
        with torch.inference_mode(), unfused_attention(), _KeptNorms(norms, kernels):
            yield model
    finally:
        for name, original in saved.items():
            tensors[name].data = original


class _KeptNorms(TorchDispatchMode):
    """Norms over channels take only the kept ones, and give zero for the others.

    ``kept``: for the scale of a norm (by ``id``) its dimension and kept indices along it.
    ``kernels``: for a layer's weight (by ``data_ptr``) its inputs, and the kept ones.
    """

    def __init__(
        self, kept: dict[int, tuple[int, Tensor]], kernels: dict[int, tuple[int, Tensor]]
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept = kept
        self._kernels = kernels

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket is torch.ops.aten.batch_norm and args[0].data_ptr() in self._kernels:
            return self._standardise(func, args, kwargs or {})
        name = _NORMS.get(func.overloadpacket)
        weight = args[2] if name is not None and len(args) > 2 else None
        if weight is None or id(weight) not in self._kept:
            return func(*args, **(kwargs or {}))
        x, shape, _, *rest = args
        dim, index = self._kept[id(weight)]
        index = index.to(x.device)
        scales = [t.index_select(dim, index) if isinstance(t, Tensor) else t for t in args[2:4]]
        if name == "group_norm":
            place = 1
            shape = len(index) if shape == x.shape[1] else shape  # each channel by itself
        else:
            place = x.dim() - len(shape) + dim
            shape = [len(index) if d == dim else size for d, size in enumerate(shape)]
        small = func(x.index_select(place, index), shape, *scales, *rest[1:], **(kwargs or {}))
        return torch.zeros_like(x).index_copy(place, index, small)

    def _standardise(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """Weight standardisation: BatchNorm of a (1, out, in * area) view of a kernel."""
        x, inputs = args[0], self._kernels[args[0].data_ptr()]
        area = x.shape[-1] // inputs[0]
        columns = (inputs[1][:, None] * area + torch.arange(area)).flatten().to(x.device)
        small = func(x.index_select(-1, columns), *args[1:], **kwargs)
        return torch.zeros_like(x).index_copy(-1, columns, small)


_NORMS = {
    torch.ops.aten.layer_norm: "layer_norm",
    torch.ops.aten.rms_norm: "rms_norm",
    torch.ops.aten.group_norm: "group_norm",
}
