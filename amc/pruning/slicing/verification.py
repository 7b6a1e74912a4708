"""The proof of a slice: it computes what the dense network does with the same channels masked."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from amc.errors import VerificationError
from amc.modules.copying import copy_model
from amc.modules.unwrapping import unwrapped
from amc.pruning.slicing import recorded_choices
from amc.pruning.slicing.masking import masked
from amc.pruning.slicing.recorded_choices import Recorded, Replayed
from amc.pruning.slicing.relative_error import relative_error, worst_error
from amc.pruning.slicing.slice import kept_indices
from amc.tracing.sources import Sources
from amc.tracing.trace import as_inputs, eval_mode, named_tensors, output_tensors, unfused_attention
from amc.tracing.units import Units

TOLERANCE = 1e-4
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
    again in double precision, because some networks magnify rounding beyond any tolerance. Raises
    :class:`VerificationError` where they differ then, where shapes differ, or where the small
    network fails.
    """
    inputs = as_inputs(example_inputs)
    (model, _), (small, _) = unwrapped(model), unwrapped(small)

    def compared_in(kind: torch.dtype, casts: tuple[torch.dtype, ...]) -> float:
        dense, cut, x = (_cast(y, casts, kind) for y in (model, small, inputs))
        return _compared(dense, cut, x, units, widths, tolerance)

    half = (torch.float16, torch.bfloat16)
    try:
        return compared_in(torch.float32, half)
    except _Different as found:
        try:
            return compared_in(torch.float64, (*half, torch.float32))
        except Exception:  # different there, too; or the network's code is bound to single
            raise found from None


class _Different(VerificationError):
    """Values differ, by rounding or by mistake."""


def _compared(
    model: nn.Module,
    small: nn.Module,
    inputs: Any,
    units: Units,
    widths: Sequence[int],
    tolerance: float,
) -> float:
    recorded, expected_layers = Recorded(), _Layers(model, units, widths, dense=True)
    actual_layers = _Layers(small, units, widths, dense=False)
    with torch.inference_mode(), unfused_attention(), eval_mode(model), eval_mode(small):
        with masked(model, units, widths) as twin, recorded, expected_layers:
            expected = output_tensors(twin(*inputs))
        try:
            with Replayed(recorded.choices), actual_layers:
                actual = output_tensors(small(*inputs))
        except Exception as error:
            raise VerificationError(f"the sliced network fails: {_first_line(error)}") from error
    for layer, difference in _compare(actual_layers, expected_layers):
        if not difference <= LAYER_TOLERANCE:
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


def _cast(x: Any, kinds: tuple[torch.dtype, ...], to: torch.dtype) -> Any:
    """A network (a copy of it), or inputs, with values of these ``kinds`` turned into others."""
    if not isinstance(x, nn.Module):
        return tree_map(lambda t: t.to(to) if isinstance(t, Tensor) and t.dtype in kinds else t, x)
    return copy_model(x).to(to) if any(t.dtype in kinds for _, t in named_tensors(x)) else x


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
        kind = str(func.overloadpacket).removeprefix("aten.")
        if kind == "linear" or kind.startswith("conv"):
            name = self._sources.used(args[1])
            if name is not None:
                transposed = "transpose" in kind or (kind == "convolution" and args[6])
                self._keep(name, args[1], out, int(transposed), kind == "linear")
        else:
            inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            self._sources.follow(inputs, [x for x in tree_leaves(out) if isinstance(x, Tensor)])
        return out

    def _keep(self, name: str, weight: Tensor, out: Tensor, dim: int, linear: bool) -> None:
        channels = out.movedim(-1 if linear else out.dim() - weight.dim() + 1, 0).flatten(1)
        kept = dict(self._kept[name]).get(dim)
        if self._dense and kept is not None:
            channels = channels[kept]
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
