"""Example inputs: the arguments of one forward, in whatever form they are handed over."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from statistics import mode
from types import FunctionType, ModuleType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from amc.errors import ConfigError

_WRAPPED = ("module", "_orig_mod")
"""Where modules that hand on any arguments (data-parallel, compiled) keep the one that takes them.
"""
_CLOSED = (nn.Module, type, FunctionType, ModuleType, torch.device, torch.dtype, torch.Generator)
"""Objects whose attributes are no part of an input or output."""


@dataclass(frozen=True, eq=False, init=False)
class Inputs:
    """``Inputs(x, mask=mask)``: what a network is called with, as ``model(x, mask=mask)``.

    Wherever inputs are asked for (``example_inputs``, calibration batches), these forms serve, too
    (:meth:`of`):

    - a tensor: the one argument;
    - a tuple or list: the positional arguments;
    - a dict, or another mapping such as a Hugging Face ``BatchEncoding``: keyword arguments if the
      signature of the network's forward takes its keys as such, and otherwise the one positional
      argument;
    - ``(args, kwargs)``, a tuple of exactly a tuple or list, and a dict with texts as keys: both
      kinds of arguments if the signature takes them so, and otherwise two positional arguments.

    Where that is not what is meant, write ``Inputs``.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __init__(self, /, *args: Any, **kwargs: Any) -> None:
        object.__setattr__(self, "args", args)
        object.__setattr__(self, "kwargs", kwargs)

    @classmethod
    def of(cls, example_inputs: Any, model: nn.Module) -> Inputs:
        """``example_inputs`` of any form, as arguments of ``model``."""
        found = _read(example_inputs, model)
        return cls(*found.args, **_in_order(model, found))

    def call(self, model: Callable[..., Any]) -> Any:
        """The forward of ``model`` on these arguments."""
        return model(*self.args, **self.kwargs)

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same arguments with every tensor changed, however deep it lies."""
        args, kwargs = map_tensors(change, (self.args, self.kwargs))
        return type(self)(*args, **kwargs)

    def suited(self, model: nn.Module) -> Self:
        """The same arguments, floating-point tensors in the kind that ``model`` computes with."""
        kind = _kind(model)
        return self.map(lambda x: x.to(kind) if x.is_floating_point() else x)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors, in the order of the arguments."""
        return tensors_of((self.args, self.kwargs))

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of all tensors: for messages."""
        return [tuple(tensor.shape) for tensor in self.tensors]

    @property
    def alone(self) -> Tensor | None:
        """The tensor that is the one argument; None where there are others."""
        single = len(self.args) == 1 and not self.kwargs and isinstance(self.args[0], Tensor)
        return self.args[0] if single else None

    @property
    def batch(self) -> int | None:
        """Number of examples: the size of the first dimension of most tensors, if in doubt of the
        first one; None where none has dimensions."""
        sizes = [len(tensor) for tensor in self.tensors if tensor.dim()]
        return mode(sizes) if sizes else None

    def batched(self, tensor: Tensor) -> bool:
        """Whether the first dimension of ``tensor`` is the batch: it is as long."""
        return tensor.dim() > 0 and len(tensor) == self.batch

    def with_batch(self, batch: int) -> Self:
        """So many examples, these over and over; what has no batch (scalars, tables) stays.

        Raises :class:`ConfigError` for inputs without any batch.
        """
        if not self.batch:
            raise ConfigError("a batch needs inputs whose first dimension is the batch")
        rows = torch.arange(batch) % self.batch
        return self.map(lambda x: x[rows.to(x.device)] if self.batched(x) else x)


def example_of(model: nn.Module, shape: Sequence[int], seed: int = 0) -> Tensor:
    """Normal random numbers of this shape, of the kind that ``model`` computes with, on the CPU."""
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(_kind(model))


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value`` with every tensor changed: in containers, mappings, dataclasses and other objects.

    What is there twice is changed once and is there twice again: attention asks whether its query
    *is* its key. Objects that hold tensors are copied; ``value`` itself never changes.
    """
    seen: dict[int, tuple[Any, Any]] = {}

    def changed(leaf: Any) -> Any:
        if id(leaf) not in seen:
            seen[id(leaf)] = (leaf, leaf)  # with the leaf itself, so that its id stays taken
            new = change(leaf) if isinstance(leaf, Tensor) else rebuilt(leaf)
            seen[id(leaf)] = (leaf, new)
        return seen[id(leaf)][1]

    def rebuilt(whole: Any) -> Any:
        parts = _parts(whole)
        if not tensors_of(parts):
            return whole
        twin = copy.copy(whole)
        seen[id(whole)] = (whole, twin)  # an object may refer to itself
        for name, part in parts.items():
            if isinstance(whole, Mapping):
                twin[name] = tree_map(changed, part)
            else:
                object.__setattr__(twin, name, tree_map(changed, part))
        return twin

    return tree_map(changed, value)


def outputs_of(output: Any) -> list[Tensor]:
    """The tensors that a network is for: :func:`tensors_of` its output, without the keys and values
    that Hugging Face's transformers keep for their next call, which shrink with their heads."""
    return tensors_of(output, _is_cache)


def tensors_of(value: Any, without: Callable[[Any], bool] = lambda _: False) -> list[Tensor]:
    """All tensors in inputs or outputs of any structure, in order, each as often as it is there.

    Parts of which ``without`` is true are passed over.
    """
    seen: dict[int, Any] = {}

    def walk(whole: Any) -> Iterator[Tensor]:
        for leaf in tree_leaves(whole, is_leaf=without):
            if without(leaf):
                continue
            if isinstance(leaf, Tensor):
                yield leaf
            elif id(leaf) not in seen:
                seen[id(leaf)] = leaf
                yield from walk([*_parts(leaf).values()])

    return [*walk(value)]


def is_inexact(tensor: Tensor) -> bool:
    """Whether it holds real or complex numbers, not counts or choices."""
    return tensor.is_floating_point() or tensor.is_complex()


def signature(model: nn.Module) -> inspect.Signature | None:
    """Of the forward that takes the arguments; None where it cannot be read."""
    try:
        found = inspect.signature(model.forward)
    except (TypeError, ValueError):
        return None
    kinds = {parameter.kind for parameter in found.parameters.values()}
    anything = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    children = dict(model.named_children())
    inner = next((children[name] for name in _WRAPPED if name in children), None)
    return signature(inner) if kinds == anything and inner is not None else found


def _is_cache(value: Any) -> bool:
    return any(kind.__module__ == "transformers.cache_utils" for kind in type(value).__mro__)


def _parts(value: Any) -> dict[Any, Any]:
    """What an object holds that is no container of PyTorch's pytrees."""
    if isinstance(value, Mapping):
        return dict(value.items())
    if isinstance(value, _CLOSED):
        return {}
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    return dict(getattr(value, "__dict__", {}))


def _kind(model: nn.Module) -> torch.dtype:
    """Of its first floating-point parameter; without one float32."""
    kinds = (x.dtype for x in model.parameters() if x.is_floating_point())
    return next(kinds, torch.float32)


def _read(given: Any, model: nn.Module) -> Inputs:
    if isinstance(given, Inputs):
        return given
    if isinstance(given, Mapping):
        keywords = Inputs(**given) if all(isinstance(key, str) for key in given) else None
        return keywords if keywords is not None and _fits(model, keywords) else Inputs(given)
    if isinstance(given, tuple) and len(given) == 2:
        args, kwargs = given
        texts = isinstance(kwargs, dict) and all(isinstance(key, str) for key in kwargs)
        if isinstance(args, tuple | list) and texts:
            both = Inputs(*args, **kwargs)
            return both if _fits(model, both) else Inputs(args, kwargs)
    return Inputs(*given) if isinstance(given, tuple | list) else Inputs(given)


def _fits(model: nn.Module, inputs: Inputs) -> bool:
    found = signature(model)
    if found is None:
        return False
    try:
        found.bind(*inputs.args, **inputs.kwargs)
    except TypeError:
        return False
    return True


def _in_order(model: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """The keyword arguments in the order of the forward's parameters, as exporters list them."""
    found = signature(model)
    order = list(found.parameters) if found is not None else []
    known = {name: inputs.kwargs[name] for name in order if name in inputs.kwargs}
    return known | inputs.kwargs
