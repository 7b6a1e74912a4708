"""What reaches the layers that read the units' channels.

The operations themselves are watched, not the modules: attention uses the weights of its output
layer without calling it, and a forward may use a weight in any way that the trace could follow.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from amc.pruning.importance.evidence import Evidence, Place
from amc.tracing.inputs import Inputs
from amc.tracing.sources import Sources
from amc.tracing.trace import eval_mode, unfused_attention


def read_inputs(
    evidence: Evidence, batches: Iterable[Any], value: Callable[[Tensor], Tensor]
) -> dict[Place, Tensor]:
    """(calls, size) means of ``value(x)``, for each place that reads a unit.

    ``x`` is what reaches index i of the reader's weight, of complex numbers their absolute values;
    its mean is over the whole batch and all positions. Each of ``batches`` runs once, in evaluation
    mode.
    """
    watch = _Watch(evidence, value)
    with eval_mode(evidence.model), torch.inference_mode(), unfused_attention():
        for batch in batches:
            inputs = Inputs.of(batch, evidence.model)
            with watch:
                inputs.call(evidence.model)
    return {place: torch.stack(rows) for place, rows in watch.rows.items()}


class _Watch(TorchDispatchMode):
    """Sums up the inputs of every reader."""

    def __init__(self, evidence: Evidence, value: Callable[[Tensor], Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._places = {*evidence.places("in")}
        readers = {name for name, _ in self._places}
        self._sources = Sources(evidence.tensors.items(), readers)
        self._value = value
        self.rows: dict[Place, list[Tensor]] = defaultdict(list)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        kind = str(func.overloadpacket).removeprefix("aten.")
        if kind == "linear":
            self._read(args[0], -1, args[1], 1)
        elif kind.startswith("conv"):
            x, weight = args[:2]
            transposed = "transpose" in kind or (kind == "convolution" and args[6])
            self._read(x, x.dim() - weight.dim() + 1, weight, 0 if transposed else 1)
        elif kind in ("matmul", "mm", "addmm"):  # by a stored (inputs, outputs) matrix
            x, weight = args[-2:]
            self._read(x, -1, weight, 0)
        if kind != "linear" and not kind.startswith("conv"):
            inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            results = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
            self._sources.follow(kind, inputs, results)
        return out

    def _read(self, x: Tensor, channels: int, weight: Tensor, dim: int) -> None:
        """``x`` has its channels along ``channels``, ``weight`` reads them along ``dim``."""
        name = self._sources.used(weight)
        if name is None or (name, dim) not in self._places:
            return
        # Groups of a convolution read with the same indices, and count as positions.
        rows = x.movedim(channels, -1).reshape(-1, weight.shape[dim])
        rows = rows.abs() if rows.is_complex() else rows
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        self.rows[name, dim].append(self._value(rows).mean(0))
