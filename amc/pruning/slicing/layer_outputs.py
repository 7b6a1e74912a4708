"""What the layers of one network compute, summed up: compared beside the network's outputs.

An error of a layer shows there, even if the signal dies on its way to the output.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from amc.pruning.slicing.relative_error import relative_error
from amc.pruning.slicing.signals import LayerCall, channel_means, layer_signal, norm_signal
from amc.pruning.slicing.slice import kept_indices
from amc.tracing.sources import Sources
from amc.tracing.trace import named_tensors
from amc.tracing.units import Units

_LAYERS = {
    *("linear", "conv1d", "conv2d", "conv3d", "convolution", "_convolution"),
    *("conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "deform_conv2d"),
}
_PRODUCTS = {"addmm", "mm", "matmul"}
"""Layers if they multiply by a stored weight; they may also compute one."""
_NORMS = {"batch_norm": 1, "instance_norm": 1, "group_norm": 2, "layer_norm": 2, "rms_norm": 2}
"""Where among the arguments the scale is; the shift follows it."""


class LayerOutputs(TorchDispatchMode):
    """Sums up the layers that lose inputs; of the dense ones, what is kept of their outputs."""

    def __init__(
        self,
        model: nn.Module,
        units: Units,
        widths: Sequence[int],
        *,
        dense: bool,
        signal: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept = kept_indices(units, widths)
        readers = {slot.tensor for unit in units for slot in unit.slots if slot.purpose == "in"}
        self._readers = readers & self._kept.keys()
        tensors = named_tensors(model)
        self._sources = Sources(tensors, self._readers)
        self._cut = {id(x): name for name, x in tensors if signal and name in self._kept}
        self._dense, self._signal = dense, signal
        self.means: dict[str, list[Tensor]] = {name: [] for name in self._readers}
        """(2, channels) of each call of each layer: means of values and of their sizes."""
        self.signals: dict[str, float] = {}
        """Of the layers that are cut, where asked for: how much of a mistake would show
        (:mod:`amc.pruning.slicing.signals`), in the call where that is most."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        kind = str(func.overloadpacket).rpartition(".")[2]
        if kind in _LAYERS or kind in _PRODUCTS:
            call = LayerCall(kind, args, kwargs)
            name = self._sources.used(call.weight) or self._cut.get(id(call.weight))
            shaped = kind in _LAYERS or call.weight.dim() == 2
            if name is not None and shaped and out.numel():
                with _disable_current_modes():  # the twin counts the network's operations alone
                    self._sum_up(func, name, call, out)
        elif self._signal and kind in _NORMS:
            with _disable_current_modes():
                self._look_at_norm(kind, args, out)
        if kind not in _LAYERS:
            self._sources.follow(kind, _tensors(args) + _tensors(kwargs), _tensors(out))
        return out

    def _sum_up(self, func: Any, name: str, call: LayerCall, out: Tensor) -> None:
        # Means over positions: attention of ours may have these in another order.
        reads = name in self._readers
        means = channel_means(out, call.out_dim)
        kept = dict(self._kept[name])
        if reads:
            mine = kept.get(call.weight_out) if self._dense else None
            self.means[name].append(means if mine is None else _kept(means, call, mine))
        if self._signal and call.x.numel():
            cut = reads and 1 - call.weight_out in kept
            self._note(name, layer_signal(func, call, means, reads=cut))

    def _look_at_norm(self, kind: str, args: tuple[Any, ...], out: Tensor) -> None:
        scale, bias = (*args, None, None)[_NORMS[kind] :][:2]
        name = self._cut.get(id(scale))
        if name is None or not out.numel():
            return
        if kind in ("layer_norm", "rms_norm") and scale.numel() == 1:
            return  # of a single channel nothing is left, whatever it was
        if kind == "group_norm" and out.numel() == len(out) * args[1]:
            return
        dim = out.dim() - 1 if kind in ("layer_norm", "rms_norm") else 1
        if scale.shape == out.shape[dim : dim + 1]:
            shift = bias if isinstance(bias, Tensor) else None
            self._note(name, norm_signal(out, shift, dim))

    def _note(self, name: str, signal: float) -> None:
        self.signals[name] = max(signal, self.signals.get(name, 0.0))


def _kept(means: Tensor, call: LayerCall, index: Tensor) -> Tensor:
    groups = means.unflatten(1, (-1, call.weight.shape[call.weight_out]))  # of a transposed one
    kept: Tensor = groups.index_select(2, index.to(means.device)).flatten(1)
    return kept


def _tensors(x: Any) -> list[Tensor]:
    if isinstance(x, Tensor):  # spares most results the walk
        return [x]
    return [leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]


def layer_name(tensor: str) -> str:
    """Path of the module that owns a tensor; the tensor's own name where none does."""
    return tensor.rpartition(".")[0] or tensor


def differences(actual: LayerOutputs, expected: LayerOutputs) -> Iterator[tuple[str, float]]:
    """Each call's layer, and how far apart its means are, relative to the largest."""
    for name, calls in expected.means.items():
        for mine, theirs in zip(actual.means[name], calls, strict=False):
            error = relative_error(mine, theirs) if mine.shape == theirs.shape else math.inf
            yield layer_name(name), error
