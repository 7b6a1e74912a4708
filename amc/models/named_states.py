"""Which tensors of a file are a network's: under which key, and behind which prefix.

Training scripts nest them (``state_dict``, ``model``, ``ema``, ...) and wrappers prefix their names
(``module.``, ``_orig_mod.``, ``model.``, ``backbone.``, in any combination). No list of keys and
prefixes is complete, so all are tried: what fits is found by the names and shapes themselves.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor
from torch.nn.parameter import is_lazy

from amc.models.weights_file import StoredArray

_DEEPEST = 5
"""Dictionaries within dictionaries that are looked into."""
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
"""Names that wrappers put before those of what they wrap, anywhere in a network."""
_COUNTERS = {"num_batches_tracked", "n_averaged", "total_ops", "total_params"}
"""Numbers that no forward in evaluation mode reads: PyTorch's, and those of thop."""
_AVERAGE = re.compile(r"(^|_)(ema|swa|avg|averaged?)(_|$)")


@dataclass(frozen=True, eq=False)
class NamedState:
    """Named tensors of a file, as a network might take them."""

    label: str
    """Where they are: ``state_dict.module``; empty: the whole file."""
    state: dict[str, Tensor]
    """Under the network's names."""
    beside: tuple[str, ...]
    """Tensors of the same dictionary that do not have the prefix."""
    wanted: Mapping[str, Tensor]
    """The network's own."""

    @property
    def averaged(self) -> bool:
        """Whether this is a moving average of the weights, by its name."""
        return any(_AVERAGE.search(part.lower()) for part in self.label.split("."))

    @cached_property
    def missing(self) -> list[str]:
        """What the network has besides. (Older files lack BatchNorm's counter.)"""
        return [name for name in self.wanted if name not in self.state and not _counter(name)]

    @cached_property
    def unexpected(self) -> list[str]:
        """What the network has not."""
        return [name for name in self.state if name not in self.wanted and not _counter(name)]

    @cached_property
    def misshapen(self) -> list[str]:
        """What is of another shape there."""
        both = (name for name in self.wanted if name in self.state)
        return [name for name in both if not _same_shape(self.state[name], self.wanted[name])]

    @property
    def fits(self) -> bool:
        """Whether names and shapes are the network's."""
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def nearness(self) -> tuple[int, int]:
        """To compare what does not fit: how much does, less what has another prefix."""
        named = len(self.state.keys() & self.wanted.keys())
        return named - len(self.misshapen) - len(self.beside), named


def named_states(content: object, wanted: Mapping[str, Tensor]) -> list[NamedState]:
    """Every set of named tensors in a file, behind each prefix of some of the ``wanted`` names."""
    return [
        found
        for path, tensors in _dictionaries(content)
        for found in _behind_prefixes(".".join(path), tensors, wanted)
    ]


def _dictionaries(
    content: object, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    if not isinstance(content, Mapping) or len(path) > _DEEPEST:
        return
    read = {str(key): _tensor(value) for key, value in content.items()}
    tensors = {name: tensor for name, tensor in read.items() if tensor is not None}
    if tensors:
        yield path, tensors
    for key, value in content.items():
        yield from _dictionaries(value, (*path, str(key)))


def _tensor(value: object) -> Tensor | None:
    if isinstance(value, StoredArray):
        return value.tensor()
    return value.detach() if isinstance(value, Tensor) else None


def _behind_prefixes(
    label: str, tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]
) -> list[NamedState]:
    found = list(_read(label, tensors, wanted))
    unwrapped = {_unwrapped(name, wanted): tensor for name, tensor in tensors.items()}
    if unwrapped.keys() != tensors.keys() and not any(state.fits for state in found):
        found += _read(label, unwrapped, wanted)
    return found


def _read(
    label: str, tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]
) -> Iterator[NamedState]:
    for prefix in Counter(p for name in tensors for p in _prefixes(name, wanted)) or [""]:
        inside = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        beside = tuple(n for n in tensors if not n.startswith(prefix) and not _counter(n))
        place = ".".join(part for part in (label, prefix.rstrip(".")) if part)
        yield NamedState(place, inside, beside, wanted)


def _prefixes(name: str, wanted: Mapping[str, Tensor]) -> Iterator[str]:
    """What stands before a wanted name at the end of ``name``, shortest first."""
    start = 0
    while True:
        if name[start:] in wanted:
            yield name[:start]
        start = name.find(".", start) + 1
        if not start:
            return


def _unwrapped(name: str, wanted: Mapping[str, Tensor]) -> str:
    """``name`` without what wrappers put in, unless the network has it so."""
    parts = (part for part in name.split(".") if part not in _WRAPPERS)
    return name if name in wanted else ".".join(parts)


def _counter(name: str) -> bool:
    return name.rpartition(".")[2] in _COUNTERS


def _same_shape(given: Tensor, wanted: Tensor) -> bool:
    return is_lazy(wanted) or given.shape == wanted.shape
