"""Trace a network: its own forward runs once, and channel ids ride along.

A :class:`~torch.utils._python_dispatch.TorchDispatchMode` sees every ATen operation with its real
tensors, and applies the operation's rule (``amc.tracing.rules``) to the ids of those tensors.
Nothing of the model is rewritten, symbolically or otherwise; control flow is whatever the example
inputs make it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from amc.errors import ModelError
from amc.tracing import (  # noqa: F401 (they register their rules)
    deformable,
    lookups,
    mixing,
    padding,
    recurrent,
    windows,
)
from amc.tracing.aliases import overlaid, sharing
from amc.tracing.attention import rewritten
from amc.tracing.attribute_reads import recorded_reads
from amc.tracing.counting import Counting
from amc.tracing.execution import Execution
from amc.tracing.ids import ChannelIds, Use, core
from amc.tracing.inputs import Inputs, is_inexact, outputs_of
from amc.tracing.labels import Label, Labels
from amc.tracing.network_code import network_file
from amc.tracing.producers import WEIGHTED
from amc.tracing.relations import Equal, Sized
from amc.tracing.rules import Call, Layer, find_rule, opaque, reason_of
from amc.tracing.sizes import SizeWatch, Source, tagged


@dataclass(frozen=True)
class Trace:
    """What one forward showed: counted layers, uses of channels, frozen channels with reasons."""

    layers: tuple[Layer, ...]
    uses: tuple[Use, ...]
    frozen: dict[int, str]
    """Why a channel has to stay."""
    ties: dict[int, str]
    """What mixes the channels that were united into one."""
    uncounted: tuple[str, ...] = ()
    """Operations, with their place in the user's code, whose arithmetic is not counted."""
    read: frozenset[str] = frozenset()
    """Paths of the integer attributes of modules that the forward reads."""


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, each module's own flag restored afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Every stored tensor once, with its name: the parameters, then the buffers."""
    return [*model.named_parameters(), *model.named_buffers()]


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Keep attention in the parts that can be followed and counted, not in one fused operation."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def trace(model: nn.Module, example_inputs: Any) -> Trace:
    """Follow every channel of ``model`` through one forward in evaluation mode.

    ``example_inputs`` are in any form of :class:`Inputs`, on the model's device. Raises
    :class:`ModelError` where the forward itself fails.
    """
    inputs = Inputs.of(example_inputs, model)
    tracer = _Tracer(model)
    tracer.mark(inputs.tensors, "network input")
    watch = SizeWatch(tracer.sized, tracer.created, model, rewritten())
    with eval_mode(model), torch.inference_mode(), unfused_attention():
        try:
            with recorded_reads(model) as read, tagged(model, tracer.sized), tracer, watch:
                output = inputs.call(model)
        except Exception as error:
            raise ModelError(
                f"the forward fails on example inputs of shapes {inputs.shapes}: {error}"
            ) from error
        outputs = outputs_of(output)
        tracer.use_places(outputs)
        for tensor in outputs:
            tracer.ids.freeze(tracer.of(tensor), "network output")
    tracer.ids.causes.current = None
    settled = tracer.ids.settle()
    return Trace(
        tuple(tracer.layers),
        settled.uses,
        settled.frozen,
        settled.ties,
        tuple(tracer.counting.uncounted),
        frozenset(read),
    )


class _Tracer(Execution):
    """Runs each operation for real, and its rule on the ids."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.ids = ChannelIds()
        self.layers: list[Layer] = []
        self._of: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._places: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._names: dict[int, str] = {}
        for name, tensor in named_tensors(model):
            self._names.setdefault(id(tensor), name)
        self._labels = Labels(self.ids, self._names)
        self._paths: dict[int, str] = {}
        for path, module in model.named_modules():
            self._paths[id(module)] = path
        self.counting = Counting(lambda tensor: id(tensor) in self._names)

    def mark(self, inputs: Sequence[Tensor], reason: str) -> None:
        """Give every input of real or complex numbers one frozen id."""
        for tensor in inputs:
            if is_inexact(tensor):
                self._of[tensor] = self.ids.opaque(reason).expand(tensor.shape)

    def places(self, tensor: Tensor, ids: Tensor, reason: str) -> None:
        if core(ids).numel() > core(self.of(tensor)).numel():
            self._places[tensor] = ids, f"their order counts: {reason}"

    def of(self, tensor: Tensor) -> Tensor:
        ids: Tensor | None = self._of.get(tensor)
        if ids is None and self._labels.of(tensor) is not None:
            name = self._names.get(id(tensor))
            return self._labels.elements(tensor, name or f"what is made at {self.where()}")
        return torch.zeros((), dtype=torch.int64).expand(tensor.shape) if ids is None else ids

    def name_of(self, tensor: Tensor | None) -> str | None:
        return None if tensor is None else self._names.get(id(tensor))

    def labels_of(self, tensor: Tensor) -> tuple[Label, ...] | None:
        return None if tensor in self._of else self._labels.of(tensor)

    def each_of(self, tensor: Tensor) -> list[Tensor]:
        labels = self.labels_of(tensor)
        return [self.of(tensor)] if labels is None else [label.ids for label in labels]

    def use_places(self, tensors: Sequence[Any]) -> None:
        """Freeze the channels whose positions something uses."""
        for tensor in tensors:
            if isinstance(tensor, Tensor) and tensor in self._places:
                self.ids.freeze(*self._places[tensor])

    def sized(self, source: Source, tensor: Tensor, dim: int) -> None:
        """``source`` was used as the size of a dimension of ``tensor``."""
        for ids in self.each_of(tensor):
            self._sized(source, ids, dim)

    def created(self, source: Source, tensor: Tensor, dim: int) -> None:
        """``source`` was used as the size of a dimension of a new constant."""
        if core(self.of(tensor)).any() and tensor in self._of:
            return  # alike: its channels are known
        if isinstance(source, str) or self._lies_along(*source):
            self._of.pop(tensor, None)
            axis = self._labels.constant(tensor, dim, f"the constant at {self.where()}")
            self._sized(source, axis, 0)

    def _lies_along(self, tensor: Tensor, dim: int) -> bool:
        """Whether there are channels along a dimension, or indices of a stored tensor."""
        return any(core(ids).shape[dim] > 1 for ids in self.each_of(tensor))

    def _sized(self, source: Source, ids: Tensor, dim: int) -> None:
        if core(ids).shape[dim] == 1:  # no channels lie along it
            return
        if isinstance(source, str):
            self.ids.later(Sized(source, ids, dim))
            return
        tensor, of = source
        for other in self.each_of(tensor):
            if core(other).shape[of] > 1 and other is not ids:
                self.ids.later(Equal(ids, dim, other, of))

    def where(self) -> str:
        """The line of the network's code that is being executed, and the module that executes it.

        ``vision.py:88 in blocks.0.attn``. PyTorch's files are not the network's, nor are ours;
        where a network is made of PyTorch's modules alone, there is only the module to name.
        """
        line, path = "", ""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code is not trace.__code__:
            file = None if line else network_file(frame.f_code.co_filename)
            if file is not None:
                line = f"{file}:{frame.f_lineno}"
            path = path or self._paths.get(id(frame.f_locals.get("self")), "")
            frame = frame.f_back
        return " in ".join(x for x in (line, path) if x) or "the network"

    def execute(
        self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], place: str
    ) -> Any:
        if self._places:
            self.use_places(tree_leaves((args, kwargs)))
        result = operation(*args, **kwargs)
        call, before = Call(operation, args, kwargs, result, place), len(self.layers)
        self.ids.causes.current = partial(reason_of, self, call)
        weighted = str(operation.overloadpacket) in WEIGHTED
        if weighted or not self._labels.follow(self, call):
            self._apply(call)
        self.counting.complete(self, call, before)
        return result

    def _apply(self, call: Call) -> None:
        """The ids of an operation's results, by its rule."""
        before = len(self.layers)
        leaves = tree_flatten(call.out)[0]
        if not any(isinstance(x, Tensor) for x in leaves):
            return
        try:
            ids = (find_rule(call.operation) or opaque)(self, call)
        except Exception:  # a form of the operation that its rule did not foresee
            del self.layers[before:]
            ids = opaque(self, call)
        for tensor, label in zip(leaves, tree_flatten(ids)[0], strict=True):
            if isinstance(tensor, Tensor) and id(tensor) not in self._names:
                if any(tensor is x for x in (*call.args, *call.kwargs.values())):
                    self._rewrite(tensor, label)
                self._of[tensor] = self.ids.shortened(label)

    def _rewrite(self, tensor: Tensor, ids: Tensor) -> None:
        """Something was written into ``tensor``: what shares its memory holds the new ``ids``."""
        before = self._of.get(tensor)
        if before is not None and torch.equal(core(before), core(ids)):
            return
        for other in sharing(tensor, (*self._of, *self._labels.tensors())):
            if (old := self.of(other)).shape == other.shape:  # no other data was set behind it
                self._of[other] = overlaid(other, old, tensor, ids)
