"""Sizes that a forward takes from integers of its modules, followed to what they size.

``x.view(n, t, self.num_heads, self.head_dim)`` hard-codes two sizes. While a network is traced, the
integers that its own modules hold are replaced by :class:`Tagged` ones, which remember where they
come from; where one of them sizes a dimension of channels, a sliced network gets the new size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.overrides import TorchFunctionMode

Sized = Callable[[str, Tensor, int], None]
"""Told (attribute, activation, dimension): the attribute is the size of that dimension."""


class Tagged(int):
    """An integer that knows which attribute it was read from."""

    attribute: str


def _tag(value: int, attribute: str) -> Tagged:
    tagged = Tagged(value)
    tagged.attribute = attribute
    return tagged


@contextmanager
def tagged(model: nn.Module) -> Iterator[None]:
    """Every integer above 1, alone or in a list, of the modules that are not PyTorch's own."""
    saved: list[tuple[dict[str, Any], str, Any]] = []
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn.") or isinstance(module, ScriptModule):
            continue
        values = vars(module)
        for name, value in list(values.items()):
            full = f"{path}.{name}" if path else name
            if type(value) is int and value > 1:
                saved.append((values, name, value))
                values[name] = _tag(value, full)
            elif type(value) in (list, tuple) and value and all(type(x) is int for x in value):
                saved.append((values, name, value))
                values[name] = type(value)(_tag(x, f"{full}.{n}") for n, x in enumerate(value))
    try:
        yield
    finally:
        for values, name, value in saved:
            values[name] = value


def set_size(model: nn.Module, attribute: str, size: int) -> None:
    """Set an attribute, ``path.to.module.name`` or an element of a list, ``path.name.0``."""
    owner, _, name = attribute.rpartition(".")
    if name.isdigit():
        owner, _, listed = owner.rpartition(".")
        module = model.get_submodule(owner)
        values = getattr(module, listed)
        new = [size if n == int(name) else value for n, value in enumerate(values)]
        setattr(module, listed, type(values)(new))
    else:
        setattr(model.get_submodule(owner), name, size)


class SizeWatch(TorchFunctionMode):
    """Sees the Python arguments of each operation, and reports tagged ones that size something."""

    def __init__(self, sized: Sized) -> None:
        super().__init__()
        self._sized = sized

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        find = _FINDERS.get(getattr(func, "__name__", ""))
        if find is not None:
            for tag, tensor, dim in find(out, args, kwargs or {}):
                if isinstance(tag, Tagged):
                    self._sized(tag.attribute, tensor, dim)
        return out


Found = Iterator[tuple[Any, Tensor, int]]


def _shape(out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Found:
    sizes = args[1] if len(args) > 1 and isinstance(args[1], tuple | list) else args[1:]
    sizes = kwargs.get("shape", kwargs.get("size", sizes))
    yield from ((size, out, dim) for dim, size in enumerate(sizes))


def _unflatten(out: Any, args: tuple[Any, ...], _: dict[str, Any]) -> Found:
    start = args[1] % args[0].dim()
    yield from ((size, out, start + n) for n, size in enumerate(args[2]))


def _split(out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Found:
    sizes = kwargs.get("split_size_or_sections", kwargs.get("split_size", (*args, None)[1]))
    dim = kwargs.get("dim", (*args, 0, 0)[2])
    sizes = sizes if isinstance(sizes, tuple | list) else [sizes] * len(out)
    yield from ((size, piece, dim) for size, piece in zip(sizes, out, strict=True))


def _narrow(out: Any, args: tuple[Any, ...], _: dict[str, Any]) -> Found:
    x, dim, start, length = args
    yield length, out, dim
    if isinstance(start, Tagged):
        yield start, x.narrow(dim, 0, start), dim


def _getitem(_out: Any, args: tuple[Any, ...], _: dict[str, Any]) -> Found:
    x, index = args
    index = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(part, slice) or part is Ellipsis for part in index):
        return
    before = index.index(Ellipsis) if Ellipsis in index else len(index)
    for n, part in enumerate(index):
        dim = n if n < before else n - len(index)
        if part is not Ellipsis and part.step is None:
            for bound in (part.start, part.stop):
                if isinstance(bound, Tagged):
                    yield bound, x.narrow(dim, 0, min(bound, x.shape[dim])), dim


_FINDERS: dict[str, Callable[[Any, tuple[Any, ...], dict[str, Any]], Found]] = {
    "view": _shape,
    "reshape": _shape,
    "unflatten": _unflatten,
    "split": _split,
    "split_with_sizes": _split,
    "narrow": _narrow,
    "__getitem__": _getitem,
}
