"""What a block of a random network is: how it draws its sizes, and the table of all kinds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from .live import Kept, Live

T = TypeVar("T")


class Draw:
    """Random choices, from one seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def number(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``."""
        return int(torch.randint(low, high + 1, (), generator=self._generator))

    def of(self, *choices: T) -> T:
        """One of them."""
        return choices[self.number(0, len(choices) - 1)]

    def chance(self, probability: float = 0.5) -> bool:
        """Whether something happens."""
        return float(torch.rand((), generator=self._generator)) < probability

    def activation(self) -> nn.Module:
        """One of PyTorch's activations without parameters."""
        kinds = (nn.ReLU, nn.GELU, nn.SiLU, nn.Hardswish, nn.ELU, nn.LeakyReLU, nn.Tanh, nn.Mish)
        return self.of(*kinds, nn.Sigmoid, nn.Softplus, nn.ReLU6, nn.Hardsigmoid)()


@dataclass(frozen=True)
class Shape:
    """Of an activation, the batch left out: a map, tokens or a vector."""

    domain: str
    """``map``: (channels, *sides); ``tokens``: (side, channels); ``vector``: (channels,)."""
    channels: int
    sides: tuple[int, ...] = ()

    @property
    def rank(self) -> int:
        """Of a map: 1, 2 or 3."""
        return len(self.sides)

    def of(self, channels: int) -> Shape:
        """The same with other channels."""
        return replace(self, channels=channels)

    @property
    def dims(self) -> list[int]:
        """A map's spatial dimensions, counted from the end."""
        return list(range(-self.rank, 0))


class Block(nn.Module):
    """A block; ``forward`` is written as strangers write it, ``reference`` by hand.

    A block without weights whose code treats all channels alike needs no reference of its own.
    """

    out: Shape

    def __init__(self, out: Shape) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Tensor) -> Any:
        """Of the whole network."""
        raise NotImplementedError

    def reference(self, x: Live, kept: Kept) -> Live:
        """Of the small one."""
        return x.map(self)


class Steps(Block):
    """Layers one after the other."""

    def __init__(self, out: Shape, *steps: nn.Module) -> None:
        super().__init__(out)
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x

    def reference(self, x: Live, kept: Kept) -> Live:
        return kept.apply(self.steps, x)


@dataclass(frozen=True)
class Kind:
    """An entry of the table."""

    name: str
    make: Callable[[Draw, Shape], Block]
    fits: Callable[[Shape], bool]
    keeps: bool
    """Whether the domain and the sides stay as they are."""


KINDS: dict[str, Kind] = {}


def kind(
    *domains: str, fits: Callable[[Shape], bool] = lambda _: True, keeps: bool = True
) -> Callable[[Any], Any]:
    """Enter a block's class, or a function that makes one, in the table."""

    def enter(make: Any) -> Any:
        def suits(shape: Shape) -> bool:
            return (not domains or shape.domain in domains) and fits(shape)

        KINDS[make.__name__] = Kind(make.__name__, make, suits, keeps)
        return make

    return enter


def rank_is(*ranks: int) -> Callable[[Shape], bool]:
    """Maps of these ranks."""
    return lambda shape: shape.rank in ranks


def even(shape: Shape) -> bool:
    """Whether the channels can be halved."""
    return shape.channels % 2 == 0


def image(shape: Shape) -> bool:
    """Whether it is a map of rank 2 with room for a kernel."""
    return shape.rank == 2 and min(shape.sides) >= 2


CONV: Sequence[Any] = (None, nn.Conv1d, nn.Conv2d, nn.Conv3d)
UP: Sequence[Any] = (None, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORM: Sequence[Any] = (None, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INSTANCE_NORM: Sequence[Any] = (None, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def same(draw: Draw, shape: Shape, out: int, **settings: Any) -> Any:
    """A layer from ``shape`` to ``out`` channels that leaves the rest: a convolution or linear."""
    if shape.domain != "map":
        return nn.Linear(shape.channels, out, bias=settings.get("bias", draw.chance(0.7)))
    size = draw.of(1, 3)
    settings = {"padding": size // 2, "bias": draw.chance(0.7), **settings}
    return CONV[shape.rank](shape.channels, out, size, **settings)


def width(draw: Draw) -> int:
    """A number of channels."""
    return draw.of(4, 6, 8, 12)
