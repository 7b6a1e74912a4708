"""Trace a network: its own forward runs once, and channel ids ride along.

A :class:`~torch.utils._python_dispatch.TorchDispatchMode` sees every ATen operation with its real
tensors, and applies the operation's rule (``amc.tracing.rules``) to the ids of those tensors.
Nothing of the model is rewritten, symbolically or otherwise; control flow is whatever the example
inputs make it.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from amc.errors import ModelError
from amc.tracing import mixing, windows  # noqa: F401 (they register their rules)
from amc.tracing.attention import rewritten
from amc.tracing.ids import ChannelIds, Use
from amc.tracing.inputs import Inputs, is_inexact, tensors_of
from amc.tracing.producers import WEIGHTED
from amc.tracing.rules import Call, Layer, find_rule, opaque
from amc.tracing.sizes import SizeWatch, Source, tagged
from amc.tracing.weights import Weight, Weights


@dataclass(frozen=True)
class Trace:
    """What one forward showed: counted layers, uses of channels, frozen channels with reasons."""

    layers: tuple[Layer, ...]
    uses: tuple[Use, ...]
    frozen: dict[int, str]
    """Why a channel has to stay."""
    ties: dict[int, str]
    """What mixes the channels that were united into one."""


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
    watch = SizeWatch(tracer.sized, model, rewritten())
    with eval_mode(model), torch.inference_mode(), unfused_attention():
        try:
            with tagged(model), tracer, watch:
                output = inputs.call(model)
        except Exception as error:
            raise ModelError(
                f"the forward fails on example inputs of shapes {inputs.shapes}: {error}"
            ) from error
        for tensor in tensors_of(output):
            tracer.ids.freeze(tracer.of(tensor), "network output")
    settled = tracer.ids.settle()
    return Trace(tuple(tracer.layers), settled.uses, settled.frozen, settled.ties)


class _Tracer(TorchDispatchMode):
    """Runs each operation for real, and its rule on the ids."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ids = ChannelIds()
        self.layers: list[Layer] = []
        self._of: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._names: dict[int, str] = {}
        for name, tensor in named_tensors(model):
            self._names.setdefault(id(tensor), name)
        self._weights = Weights(model, self._names)

    def mark(self, inputs: Sequence[Tensor], reason: str) -> None:
        """Give every input of real or complex numbers one frozen id."""
        for tensor in inputs:
            if is_inexact(tensor):
                self._of[tensor] = self.ids.opaque(reason).expand(tensor.shape)

    def of(self, tensor: Tensor) -> Tensor:
        ids: Tensor | None = self._of.get(tensor)
        if ids is not None:
            return ids
        name = self._names.get(id(tensor))
        if name is not None and is_inexact(tensor):
            return self.ids.elements(name, tensor)
        weight = self._weights.computed(tensor)
        if weight is not None:
            return self.ids.opaque(f"{weight.name} is used as data").expand(tensor.shape)
        return torch.zeros((), dtype=torch.int64).expand(tensor.shape)

    def name_of(self, tensor: Tensor | None) -> str | None:
        return None if tensor is None else self._names.get(id(tensor))

    def weight_of(self, tensor: Tensor) -> Weight | None:
        return self._weights.used(tensor)

    def sized(self, source: Source, tensor: Tensor, dim: int) -> None:
        """``source`` was used as the size of a dimension of ``tensor``."""
        if isinstance(source, str):
            self.ids.sized(source, self.of(tensor), dim)
        else:
            self.ids.equal(self.of(tensor), dim, self.of(source[0]), source[1])

    def where(self) -> str:
        """File and line of the innermost frame that is neither PyTorch's nor ours."""
        torch_folder, own_folder = Path(torch.__file__).parent, Path(__file__).parent
        for frame in reversed(traceback.extract_stack()):
            file = Path(frame.filename)
            if torch_folder not in file.parents and own_folder != file.parent:
                return f"{file.name}:{frame.lineno}"
        return "the model"

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        rule = find_rule(func)
        if rule is None:
            with self:  # a composite operation is followed through its parts
                decomposed = func.decompose(*args, **kwargs)
            if decomposed is not NotImplemented:
                return decomposed
        result = func(*args, **kwargs)
        leaves, _ = tree_flatten(result)
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        if str(func.overloadpacket) not in WEIGHTED:
            inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
            if self._weights.follow(inputs, tensors):
                return result
        if tensors:
            call = Call(func, args, kwargs, result)
            try:
                ids = (rule or opaque)(self, call)
            except Exception:  # a form of the operation that its rule did not foresee
                ids = opaque(self, call)
            for tensor, label in zip(leaves, tree_flatten(ids)[0], strict=True):
                if isinstance(tensor, Tensor) and id(tensor) not in self._names:
                    self._of[tensor] = label
        return result
