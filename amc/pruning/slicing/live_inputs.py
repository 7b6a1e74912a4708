"""Example inputs that can show a mistake: zeros, constants and NaN are replaced by drawn values.

A proof compares two networks on the example inputs. Where these are dead, so is what is compared.
An input that is alive is used as it is, since it may carry meaning.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from amc.tracing.inputs import Inputs, is_inexact, tensors_of
from amc.tracing.trace import eval_mode, unfused_attention

TINY = 1e-6
"""Largest absolute value of an input that counts as none."""
FLAT = 1e-4
"""Largest spread of a constant input, in proportion to its largest value."""

Draw = Callable[[Tensor, torch.Generator], Tensor]


def live_inputs(model: nn.Module, inputs: Inputs, seed: int = 0) -> Inputs:
    """``inputs`` with every dead tensor drawn anew: same shape, dtype and device.

    Numbers come from a standard normal distribution, or where the network fails on these or gives
    no finite output, evenly from 0 to 1; whole numbers from the rows of the table that they index
    (:class:`_Lookups`); a mask that is False everywhere is drawn, unless the network fails on that.
    Where the network takes none of it, or nothing is dead, ``inputs`` themselves are returned.
    """
    dead = [x for x in inputs.tensors if is_dead(x)]
    if not dead:
        return inputs
    rows = _rows(model, inputs, dead)
    for masks, draw in ((True, _normal), (True, _even), (False, _normal), (False, _even)):
        generator = torch.Generator().manual_seed(seed)
        drawn = {
            id(x): _drawn(x, rows.get(id(x)), draw, generator)
            for x in dead
            if masks or x.dtype is not torch.bool
        }
        candidate = inputs.map(partial(_replaced, drawn))
        if _takes(model, candidate):
            return candidate
    return inputs


def _replaced(drawn: dict[int, Tensor], x: Tensor) -> Tensor:
    return drawn.get(id(x), x)


def is_dead(x: Tensor) -> bool:
    """Whether an input tells nothing: constant, tiny, NaN, or a mask that is False everywhere.

    Negative infinity beside finite values is a mask that is added to scores, and means something;
    a single number is dead only if it is none, as constants of one element may mean something too.
    """
    if not x.numel():
        return False
    if x.dtype is torch.bool:
        return not bool(x.any())
    if not is_inexact(x):
        return x.numel() > 1 and bool((x == x.flatten()[0]).all())
    values = (torch.view_as_real(x.detach()) if x.is_complex() else x.detach()).double()
    if bool((values == -torch.inf).any()) and bool(values.isfinite().any()):
        return False
    largest = float(values.abs().max())
    if not largest < torch.inf or largest <= TINY:
        return True
    return x.numel() > 1 and float(values.max() - values.min()) <= FLAT * largest


def _drawn(x: Tensor, rows: int | None, draw: Draw, generator: torch.Generator) -> Tensor:
    if x.dtype is torch.bool:
        return (torch.rand(x.shape, generator=generator) < 0.5).to(x.device)
    if is_inexact(x):
        return draw(x, generator).to(x)
    if rows is None:  # it indexes nothing: a size, a number of steps
        return x
    return torch.randint(0, rows, x.shape, generator=generator).to(x)


def _normal(x: Tensor, generator: torch.Generator) -> Tensor:
    kind = torch.complex64 if x.is_complex() else torch.float32
    return torch.randn(x.shape, generator=generator, dtype=kind)


def _even(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(x.shape, generator=generator)


def _takes(model: nn.Module, inputs: Inputs) -> bool:
    """Whether the network runs on ``inputs`` and gives finite numbers."""
    try:
        with torch.inference_mode(), unfused_attention(), eval_mode(model):
            outputs = tensors_of(inputs.call(model))
    except Exception:
        return False
    return all(bool(x.isfinite().all()) for x in outputs)


def _rows(model: nn.Module, inputs: Inputs, dead: list[Tensor]) -> dict[int, int]:
    """Rows of the smallest table that each whole-numbered input indexes, by its ``id``."""
    whole = {x.untyped_storage().data_ptr(): id(x) for x in dead if not is_inexact(x)}
    if not whole:
        return {}
    watch = _Lookups(whole)
    try:
        with torch.inference_mode(), unfused_attention(), eval_mode(model), watch:
            inputs.call(model)
    except Exception:
        return {}
    return watch.rows


class _Lookups(TorchDispatchMode):
    """Sees which inputs index which dimension of a tensor, and how large that is."""

    def __init__(self, whole: dict[int, int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._whole = whole
        self._copies: list[Tensor] = []  # held, so that their storage is nobody else's meanwhile
        self.rows: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = str(func.overloadpacket).removeprefix("aten.")
        if name == "embedding":
            self._note(args[1], args[0].shape[0])
        elif name in ("index_select", "gather") and isinstance(args[1], int):
            self._note(args[2], args[0].shape[args[1]])
        elif name == "index":
            for dim, index in enumerate(args[1]):
                if isinstance(index, Tensor):
                    self._note(index, args[0].shape[dim])
        elif name == "one_hot" and len(args) > 1 and args[1] > 0:
            self._note(args[0], args[1])
        out = func(*args, **(kwargs or {}))
        sources = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        if len(sources) == 1 and isinstance(out, Tensor) and not out.is_floating_point():
            self._follow(sources[0], out)
        return out

    def _note(self, index: Tensor, rows: int) -> None:
        number = self._whole.get(index.untyped_storage().data_ptr())
        if number is not None:
            self.rows[number] = min(rows, self.rows.get(number, rows))

    def _follow(self, source: Tensor, made: Tensor) -> None:
        """A copy, or another integer type, of an input."""
        number = self._whole.get(source.untyped_storage().data_ptr())
        if number is not None and made.shape.numel() == source.shape.numel():
            self._copies.append(made)
            self._whole[made.untyped_storage().data_ptr()] = number
