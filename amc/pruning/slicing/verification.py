"""The proof of a slice: it computes what the dense network does with the same channels masked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from amc.errors import VerificationError
from amc.modules.unwrapping import unwrapped
from amc.pruning.slicing import recorded_choices
from amc.pruning.slicing.masking import masked
from amc.pruning.slicing.precision import (
    DOUBLE,
    SINGLE,
    TOLERANCES,
    Casts,
    cast,
    cast_model,
    rounding,
)
from amc.pruning.slicing.recorded_choices import Recorded, Replayed
from amc.pruning.slicing.relative_error import relative_error, worst_error
from amc.pruning.slicing.slice import kept_indices
from amc.tracing.inputs import Inputs, outputs_of
from amc.tracing.sources import Sources
from amc.tracing.trace import eval_mode, named_tensors, unfused_attention
from amc.tracing.units import Units

TOLERANCE = TOLERANCES[torch.float32]
"""Largest error of a sliced network, relative to the largest output of its masked twin."""
LAYER_TOLERANCE = 1e-3
"""Largest error of one layer, relative to its own largest output; wrong channels give errors
near 1, and deep inside a network rounding is not yet averaged out."""


def verify(
    model: nn.Module,
    small: nn.Module,
    units: Units,
    widths: Sequence[int],
    example_inputs: Any,
    tolerance: float = TOLERANCE,
) -> float:
    """Worst error of ``small`` against the masked twin of ``model``, over the largest output.

    Both run once in evaluation mode on ``example_inputs``, in single precision at least. Every
    layer that lost inputs is compared too, at :data:`LAYER_TOLERANCE` of its own largest output, so
    that nothing hides where the signal dies on its way to the output. Where they differ they run
    again in double precision, because some networks magnify rounding beyond any tolerance. A
    network whose code is bound to half precision runs in that, at its tolerance
    (:data:`amc.pruning.slicing.precision.TOLERANCES`). Raises
    :class:`VerificationError` where they differ then, where shapes differ, or where the small
    network fails.
    """
    (model, _), (small, _) = unwrapped(model), unwrapped(small)
    inputs = Inputs.of(example_inputs, model)

    def compared_in(casts: Casts, allowed: float = tolerance) -> float:
        dense, cut = (cast_model(network, casts) for network in (model, small))
        x = inputs.map(lambda tensor: cast(tensor, casts))
        return _compared(dense, cut, x, units, widths, allowed)

    try:
        return compared_in(SINGLE)
    except _Different as found:
        try:
            return compared_in(DOUBLE)
        except Exception:  # different there, too; or the network's code is bound to single
            raise found from None
    except Exception:  # its code may be bound to half precision
        own = rounding(tensor for _, tensor in named_tensors(model))
        if own <= TOLERANCE:
            raise
        return compared_in({}, max(own, tolerance))


class _Different(VerificationError):
    """Values differ, by rounding or by mistake."""


def _compared(
    model: nn.Module,
    small: nn.Module,
    inputs: Inputs,
    units: Units,
    widths: Sequence[int],
    tolerance: float,
) -> float:
    recorded, expected_layers = Recorded(), _Layers(model, units, widths, dense=True)
    actual_layers = _Layers(small, units, widths, dense=False)
    with torch.inference_mode(), unfused_attention(), eval_mode(model), eval_mode(small):
        with masked(model, units, widths) as twin, recorded, expected_layers:
            expected = outputs_of(inputs.call(twin))
        try:
            with Replayed(recorded.choices), actual_layers:
                actual = outputs_of(inputs.call(small))
        except Exception as error:
            raise VerificationError(f"the sliced network fails: {_first_line(error)}") from error
    for layer, difference in _compare(actual_layers, expected_layers):
        if not difference <= max(LAYER_TOLERANCE, tolerance):
            raise _Different(f"{layer} differs from the masked twin's by {difference:.1e}")
    if [x.shape for x in actual] != [x.shape for x in expected]:
        raise VerificationError(
            "the sliced network's outputs have other shapes than the dense one's"
        )
    worst = worst_error(actual, expected)
    if not worst <= tolerance:  # also catches NaN
        raise _Different(
            f"the sliced network differs from its masked twin by {worst:.1e} of the largest output "
            f"(at most {tolerance:.0e} is rounding)"
        )
    return worst


class _Layers(TorchDispatchMode):
    """Sums up what the layers that lose inputs compute; of the dense ones, what is kept of it."""

    def __init__(
        self, model: nn.Module, units: Units, widths: Sequence[int], *, dense: bool
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept = kept_indices(units, widths)
        readers = {slot.tensor for unit in units for slot in unit.slots if slot.purpose == "in"}
        self._watched = readers & self._kept.keys()
        self._sources = Sources(named_tensors(model), self._watched)
        self._dense = dense
        self.means: dict[str, list[Tensor]] = {name: [] for name in self._watched}
        """(2, channels) of each call of each layer: means of values and of their sizes."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = str(func.overloadpacket).rpartition(".")[2]
        if kind == "linear" or kind.startswith("conv") or kind == "deform_conv2d":
            name = self._sources.used(args[1])
            if name is not None:
                transposed = "transpose" in kind or (kind == "convolution" and args[6])
                self._keep(name, args[1], out, int(transposed), kind == "linear")
        else:
            inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            results = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
            self._sources.follow(kind, inputs, results)
        return out

    def _keep(self, name: str, weight: Tensor, out: Tensor, dim: int, linear: bool) -> None:
        with _disable_current_modes():  # the twin counts the network's operations, not these
            channels = out.movedim(-1 if linear else out.dim() - weight.dim() + 1, 0).flatten(1)
            kept = dict(self._kept[name]).get(dim)
            if self._dense and kept is not None:
                groups = channels.unflatten(0, (-1, weight.shape[dim]))  # of a transposed one
                channels = groups[:, kept].flatten(0, 1)
            # Means over positions: attention of ours may have these in another order.
            self.means[name].append(torch.stack([channels.mean(1), channels.abs().mean(1)]))


def _compare(actual: _Layers, expected: _Layers) -> Iterator[tuple[str, float]]:
    for name, calls in expected.means.items():
        for mine, theirs in zip(actual.means[name], calls, strict=False):
            layer = name.rpartition(".")[0] or name
            yield layer, relative_error(mine, theirs) if mine.shape == theirs.shape else math.inf


def _first_line(error: BaseException) -> str:
    """What failed and, where it can be told, at which line of the model's own code."""
    folder = torch.__path__[0]
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith(folder) and file not in (__file__, recorded_choices.__file__):
            place = f" (at {file.rpartition('/')[2]}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f"{str(error).splitlines()[0] if str(error) else type(error).__name__}{place}"
