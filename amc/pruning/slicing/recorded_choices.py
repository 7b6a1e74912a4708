"""Choices that a forward makes by its values, made again: which boxes are best, what exceeds .5.

Two networks that differ by rounding may order near-ties differently, and from there on nothing in
them can be compared. So the choices of the first are remembered and imposed on the second: whole
and boolean numbers that are computed from real ones, and the order of sorted values. Where the
second has another number of channels to choose from, its own choice stands.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ORDERED = {
    getattr(torch.ops.aten, name) for name in ("topk", "sort", "max", "min", "median", "kthvalue")
}
"""Operations that return values of their input, and where along a dimension these were."""


class Recorded(TorchDispatchMode):
    """Runs the first network; ``choices`` are what it chose, in order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.choices: list[tuple[Any, list[Tensor]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        chosen = _chosen(args, out)
        if chosen:
            self.choices.append((func, chosen))
        return out


class Replayed(TorchDispatchMode):
    """Runs the second network with the choices of the first."""

    def __init__(self, choices: list[tuple[Any, list[Tensor]]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._choices = iter(choices)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        own = _chosen(args, out)
        if not own:
            return out
        operation, chosen = next(self._choices, (None, []))
        fits = [a.shape == b.shape for a, b in zip(own, chosen, strict=False)]
        found = func.namespace == "torchvision"  # as many boxes as are found, never channels
        if operation != func or not (all(fits) or found):
            return out
        if isinstance(out, Tensor):
            return chosen[0]
        values, index = out[0], chosen[0]
        if not values.is_floating_point():
            return type(out)(chosen)
        if func.overloadpacket not in _ORDERED:  # positions that pooling found: nobody's choice
            return out
        named = dict(zip((x.name for x in func._schema.arguments), args, strict=False))
        dim = (named | (kwargs or {})).get("dim", -1)
        kept = index if index.dim() == args[0].dim() else index.unsqueeze(dim)
        return type(out)((args[0].gather(dim, kept).view(index.shape), index))


def _chosen(args: tuple[Any, ...], out: Any) -> list[Tensor]:
    """Whole and boolean results of an operation on real numbers."""
    if isinstance(out, Tensor) and out.is_floating_point():  # most are
        return []
    if not any(isinstance(x, Tensor) and x.is_floating_point() for x in tree_leaves(args)):
        return []
    return [x for x in tree_leaves(out) if isinstance(x, Tensor) and not x.is_floating_point()]
