"""Weights that a forward computes from stored ones: standardised, scaled, reshaped.

``conv2d(x, standardise(self.weight) * self.gain)`` has the channels of ``self.weight``. What is
computed from one layer's weight, and from nothing that the network's input reaches, is followed as
a whole; only the shape in which a layer uses it matters.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.weak import WeakIdKeyDictionary


@dataclass(frozen=True)
class Weight:
    """A layer's weight: stored, or computed from a stored one."""

    name: str
    gains: tuple[Tensor, ...] = ()
    """Other tensors that went into it, such as a gain for each output channel."""


class Weights:
    """Which tensors are made of parameters and buffers alone, and of which layer's weight."""

    def __init__(self, model: nn.Module, names: dict[int, str]) -> None:
        self._names = names
        layers = [m for m in model.modules() if isinstance(m, _ConvNd | nn.Linear)]
        self._layers = {id(layer._parameters.get("weight")) for layer in layers}
        self._shapes = {names[id(p)]: p.shape for p in model.parameters() if id(p) in self._layers}
        self._computed: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def computed(self, tensor: Tensor) -> Weight | None:
        """The weight of a layer that ``tensor`` was computed from; None for anything else."""
        made: Weight | None = self._computed.get(tensor)
        return made if made is not None and made.name else None

    def used(self, tensor: Tensor) -> Weight | None:
        """The weight that a layer finds in ``tensor``: stored, or computed in the stored shape."""
        name = self._names.get(id(tensor))
        if name is not None:
            return Weight(name)
        made = self.computed(tensor)
        return made if made is not None and self._shapes[made.name] == tensor.shape else None

    def follow(self, inputs: list[Tensor], results: list[Tensor]) -> bool:
        """Note what an operation computes; whether that is a layer's weight."""
        sources = [self._source(x) for x in inputs]
        made = [source for source in sources if source is not None]
        if not made or len(made) < len(sources):  # the network's input is behind one of them
            return False
        names = {source.name for source in made if source.name}
        weight = Weight("")
        if len(names) == 1:
            gains = [gain for source in made for gain in source.gains]
            gains += [x for x, source in zip(inputs, made, strict=True) if not source.name]
            weight = Weight(names.pop(), tuple(gains))
        for result in results:
            self._computed[result] = weight
        return bool(weight.name)

    def _source(self, tensor: Tensor) -> Weight | None:
        if id(tensor) in self._layers:
            return Weight(self._names[id(tensor)])
        if id(tensor) in self._names:
            return Weight("")
        made: Weight | None = self._computed.get(tensor)
        return made
