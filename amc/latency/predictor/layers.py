"""Which layers a forward runs, and how their sizes follow from the kept widths.

A layer is seen where PyTorch's functional interface is called, so that a network which calls
``F.conv2d`` itself is seen as one that is made of modules. BatchNorm is taken to be folded into the
layer before it, and an activation that follows to be fused, as runtimes do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from amc.tracing.inputs import Inputs
from amc.tracing.trace import eval_mode
from amc.tracing.units import Units

_CONVOLUTIONS: dict[str, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
}
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardtanh": nn.ReLU6,  # what nn.ReLU6 calls
    "silu": nn.SiLU,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "leaky_relu": nn.LeakyReLU,
}


@dataclass(frozen=True)
class LayerShape:
    """All of a layer but its channels: layers of one shape take the same time at equal sizes."""

    kind: str
    """``conv1d``, ``conv2d``, ``conv3d`` or ``linear``."""
    inputs: tuple[int, ...]
    """The activation's other sizes: batch and image sides, or for a linear layer batch and tokens.
    """
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | str = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    """0 where the convolution is depthwise: as many as channels."""
    activation: str = ""

    @property
    def positions(self) -> float:
        """Elements of the output for each of its channels, batch included."""
        batch, *sides = self.inputs
        strides = self.stride or (1,) * len(sides)
        return float(batch * np.prod([-(-n // s) for n, s in zip(sides, strides, strict=True)]))

    def network(self, in_channels: int, out_channels: int) -> tuple[nn.Module, Tensor]:
        """A network of this one layer (and its activation), and an input for it."""
        batch, *rest = self.inputs
        if self.kind == "linear":
            layer: nn.Module = nn.Linear(in_channels, out_channels)
            x = torch.zeros(batch, *rest, in_channels)
        else:
            # The arguments of the three classes differ only in the length of the tuples.
            convolution: Any = _CONVOLUTIONS[self.kind]
            layer = convolution(
                in_channels,
                out_channels,
                self.kernel,
                self.stride,
                self.padding,
                self.dilation,
                self.groups or in_channels,
            )
            x = torch.zeros(batch, in_channels, *rest)
        after = [_ACTIVATIONS[self.activation]()] if self.activation else []
        return nn.Sequential(layer, *after).eval(), x

    def __str__(self) -> str:
        sides = "x".join(map(str, self.inputs))
        window = "x".join(map(str, self.kernel))
        words = [self.kind, sides, *([f"k{window}"] if window else [])]
        for name, value, plain in (
            ("s", self.stride, {1}),
            ("p", self.padding, {0}),
            ("d", self.dilation, {1}),
        ):
            if value and set(value) != plain:
                words.append(
                    name + (value if isinstance(value, str) else "x".join(map(str, value)))
                )
        if self.groups != 1:
            words.append(f"g{self.groups or 'dw'}")
        return " ".join([*words, *([self.activation] if self.activation else [])])


@dataclass(frozen=True)
class TimedLayer:
    """A layer of one network: its shape, and its channels as affine functions of the widths."""

    name: str
    shape: LayerShape
    in_form: tuple[int, ...]
    """(units + 1,) coefficients of the widths, and the constant."""
    out_form: tuple[int, ...]


class RunLayer(NamedTuple):
    """A layer of a forward, as it was called."""

    weight: str
    shape: LayerShape
    inputs: int
    """Channels."""
    outputs: int


def run_layers(model: nn.Module, example_inputs: Any) -> list[RunLayer]:
    """The convolutions and linear layers of one forward, in order, each as often as it runs.

    What else the network does (products of attention, norms, pooling) is not among them.
    """
    with torch.no_grad(), eval_mode(model), _Watch(model) as watch:
        Inputs.of(example_inputs, model).call(model)
    return [
        RunLayer(weight, LayerShape(**found), inputs, outputs)
        for weight, found, inputs, outputs in watch.layers
    ]


def timed_layers(model: nn.Module, example_inputs: Any, units: Units) -> list[TimedLayer]:
    """What :func:`run_layers` finds, with sizes that follow the widths of ``units``."""
    found = []
    for layer in run_layers(model, example_inputs):
        groups = layer.shape.groups
        # The second dimension of a convolution's weight is the inputs of one group.
        inputs = _form(units, layer.weight, 1 if groups else 0, groups or 1)
        outputs = _form(units, layer.weight, 0, 1)
        found.append(TimedLayer(layer.weight.rpartition(".")[0], layer.shape, inputs, outputs))
    return found


def _form(units: Units, tensor: str, dim: int, times: int) -> tuple[int, ...]:
    constant = (*[0] * len(units), units.sizes[tensor][dim])
    return tuple(times * value for value in units.forms.get((tensor, dim), constant))


class _Watch(TorchFunctionMode):
    """Notes every layer that is called with a stored weight, and the activation behind it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._last: dict[int, tuple[Tensor, int]] = {}
        """Outputs by identity (kept alive, so that none is reused) and whose they are."""
        self.layers: list[tuple[str, dict[str, Any], int, int]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = (resolve_name(func) or "").rpartition(".")[2].removesuffix("_")
        source = self._last.get(id(args[0])) if args and isinstance(args[0], Tensor) else None
        if name in _CONVOLUTIONS or name == "linear":
            self._layer(name, out, *args, **kwargs)
        elif name == "batch_norm" and source:
            self._last[id(out)] = (out, source[1])
        elif name in _ACTIVATIONS and source and not self.layers[source[1]][1]["activation"]:
            self.layers[source[1]][1]["activation"] = name
        return out

    def _layer(
        self, name: str, out: Tensor, x: Tensor, weight: Tensor, *args: Any, **kw: Any
    ) -> None:
        stored = self._names.get(id(weight))
        if stored is None:
            return
        if name == "linear":
            sides = (x.shape[0], *((x[0, ..., 0].numel(),) if x.dim() > 2 else ()))
            found = {"kind": name, "inputs": sides, "groups": 1, "activation": ""}
            channels = x.shape[-1]
        else:
            rank, channels = x.dim() - 2, x.shape[1]
            given = dict(
                zip(("bias", "stride", "padding", "dilation", "groups"), args, strict=False)
            )
            given |= kw
            groups = int(given.get("groups", 1))
            padding = given.get("padding", 0)
            found = {
                "kind": name,
                "inputs": (x.shape[0], *x.shape[2:]),
                "kernel": tuple(weight.shape[2:]),
                "stride": _tuple(given.get("stride", 1), rank),
                "padding": padding if isinstance(padding, str) else _tuple(padding, rank),
                "dilation": _tuple(given.get("dilation", 1), rank),
                "groups": 0 if groups == x.shape[1] == weight.shape[0] != 1 else groups,
                "activation": "",
            }
        self._last[id(out)] = (out, len(self.layers))
        self.layers.append((stored, found, channels, weight.shape[0]))


def _tuple(value: Any, rank: int) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return tuple(int(x) for x in (values * rank if len(values) == 1 else values))
