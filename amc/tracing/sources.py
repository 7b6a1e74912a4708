"""Which reader's weight a layer uses, in runs that are watched after the trace."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary


class Sources:
    """Of which stored tensors others are made, in one run of a network.

    Args:
        tensors: the network's stored tensors, by name.
        readers: those of them that are asked for.
    """

    def __init__(self, tensors: Iterable[tuple[str, Tensor]], readers: Iterable[str]) -> None:
        self._names: dict[int, str] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        for name, tensor in tensors:
            self._names.setdefault(id(tensor), name)
            self._shapes[name] = tensor.shape
        self._readers = frozenset(readers)
        self._made: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def used(self, weight: Tensor) -> str | None:
        """The reader that ``weight`` is, or is made of in the stored shape; None for others."""
        name = self._names.get(id(weight))
        if name is not None:
            return name if name in self._readers else None
        found: frozenset[str] = self._made.get(weight, frozenset())
        name = next(iter(found)) if len(found) == 1 else None
        return name if name is not None and self._shapes[name] == weight.shape else None

    def follow(self, operation: str, inputs: list[Tensor], results: list[Tensor]) -> None:
        """Note what ``aten``'s operation makes of stored tensors alone."""
        sources = [self._of(x) for x in inputs]
        known = [source for source in sources if source is not None]
        if known and len(known) == len(sources):
            # A transposed square matrix has the stored shape, but reads other channels.
            turned = operation in _TURNING
            made = frozenset[str]() if turned else frozenset().union(*known) & self._readers
            for result in results:
                self._made[result] = made

    def _of(self, tensor: Tensor) -> frozenset[str] | None:
        name = self._names.get(id(tensor))
        if name is not None:
            return frozenset((name,))
        made: frozenset[str] | None = self._made.get(tensor)
        return made


_TURNING = {"t", "transpose", "permute", "movedim", "swapaxes", "numpy_T", "mT", "adjoint"}
