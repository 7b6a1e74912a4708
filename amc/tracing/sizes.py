"""Sizes that a forward takes from its modules' integers and from shapes, followed to their use.

``x.view(n, t, self.num_heads, self.head_dim)`` hard-codes two sizes. While a network is traced, the
integers that its own modules hold are replaced by ones that remember where they come from; where
one of them sizes a dimension of channels, a sliced network gets the new size. In the same way
``y.reshape(*x.shape)`` asks that ``y`` lose as many channels as ``x``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import ScriptModule
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

Source = str | tuple[Tensor, int]
"""An attribute's path, or an activation and one of its dimensions."""

Sized = Callable[[Source, Tensor, int], None]
"""Told that a source was used as the size of a dimension of an activation."""

_SHAPE = torch.Tensor.shape.__get__  # type: ignore[attr-defined]


class Tagged(int):
    """An integer that knows what it was read from, and tells which other it is compared with."""

    source: Source
    sized: Sized | None = None

    def __eq__(self, other: object) -> bool:
        """``assert x.shape[1] == self.channels`` makes the attribute a size of that dimension."""
        equal = int(self) == other
        if equal and self.sized is not None and isinstance(other, Tagged):
            for one, two in ((self, other), (other, self)):
                if isinstance(one.source, str) and not isinstance(two.source, str):
                    self.sized(one.source, *two.source)
        return equal

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = int.__hash__

    def __deepcopy__(self, _: Any) -> Tagged:
        return self  # a forward that copies its configuration must not copy the trace

    def __reduce__(self) -> tuple[type[int], tuple[int]]:
        return int, (int(self),)


def _tag(value: int, source: Source, sized: Sized | None) -> Tagged:
    tagged = Tagged(value)
    tagged.source, tagged.sized = source, sized
    return tagged


@contextmanager
def tagged(model: nn.Module, sized: Sized | None = None) -> Iterator[None]:
    """Every integer above 1, alone or in a list, of modules; of PyTorch's own only of those whose
    sizes no tensor tells.

    So are those of configurations that modules hold: plain objects and dictionaries. ``sized`` is
    told which of them are compared with a size of an activation, and equal it.
    """
    saved: list[tuple[dict[str, Any], str, Any]] = []
    for path, values in _holders(model):
        for name, value in list(values.items()):
            full = f"{path}.{name}" if path else name
            if type(value) is int and value > 1:
                saved.append((values, name, value))
                values[name] = _tag(value, full, sized)
            elif type(value) in (list, tuple) and value and all(type(x) is int for x in value):
                saved.append((values, name, value))
                values[name] = type(value)(
                    _tag(x, f"{full}.{n}", sized) for n, x in enumerate(value)
                )
    try:
        yield
    finally:
        for values, name, value in saved:
            values[name] = value


def _holders(model: nn.Module) -> Iterator[tuple[str, dict[str, Any]]]:
    """Paths and contents of what may hold integers; what several modules share comes once."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        if isinstance(module, ScriptModule) or _states_itself(module):
            continue
        values = vars(module)
        yield path, values
        for name, value in values.items():
            held = _configuration(value)
            if (
                held is not None and id(held) not in seen and not name.startswith("_")
            ):  # not PyTorch's
                seen.add(id(held))
                yield f"{path}.{name}" if path else name, held


def _states_itself(module: nn.Module) -> bool:
    """Whether the sizes of a module of PyTorch's are those of its tensors.

    A cell makes its first state; a norm without a scale or an ``nn.Unflatten`` has no tensors.
    """
    tensors = (*module._parameters.values(), *module._buffers.values())
    stored = any(tensor is not None for tensor in tensors)
    own = type(module).__module__.startswith("torch.nn.")
    return own and stored and not isinstance(module, nn.RNNCellBase)


def _configuration(value: Any) -> dict[str, Any] | None:
    """What a dictionary with names, or an object that is nothing but its attributes, holds."""
    if type(value) is dict:
        return value if all(isinstance(key, str) and key.isidentifier() for key in value) else None
    if isinstance(value, nn.Module | Tensor | ModuleType | Enum) or callable(value):
        return None
    held = getattr(value, "__dict__", None)
    return held if isinstance(held, dict) else None


def set_size(model: nn.Module, attribute: str, size: int) -> None:
    """Set an integer attribute, ``path.to.module.name``, or an element of a list, ``path.name.0``.

    The path may end in a configuration that a module holds, ``path.config.name``. Raises
    :class:`AttributeError` or :class:`TypeError` where there is no integer of that name.
    """
    owner, _, name = attribute.rpartition(".")
    position = int(name) if name.isdigit() else None
    if position is not None:
        owner, _, name = owner.rpartition(".")
    values = _held(model, owner)
    if name not in values:
        raise AttributeError(f"no attribute {name!r}")
    old = values[name]
    if type(old if position is None else old[position]) is not int:
        raise TypeError(f"not an integer: {old!r}")
    whole = size if position is None else type(old)((*old[:position], size, *old[position + 1 :]))
    values[name] = whole


def _held(model: nn.Module, path: str) -> dict[str, Any]:
    """What the module at ``path`` holds, or a configuration whose name ends the path."""
    try:
        return vars(model.get_submodule(path))
    except AttributeError:
        owner, _, name = path.rpartition(".")
        held = _configuration(getattr(model.get_submodule(owner), name))
        if held is None or name.startswith("_"):
            raise
        return held


class SizeWatch(TorchFunctionMode):
    """Sees the Python arguments of each operation, and reports tagged ones that size something.

    Inside of ``replaced`` modules, which get a forward of ours once they are sliced, shapes say
    nothing.
    """

    def __init__(
        self, sized: Sized, created: Sized, model: nn.Module, replaced: tuple[type[nn.Module], ...]
    ) -> None:
        super().__init__()
        self._sized = sized
        self._created = created
        self._deaf = 0
        self._modules = [module for module in model.modules() if type(module) in replaced]
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> SizeWatch:
        for module in self._modules:
            self._hooks.append(module.register_forward_pre_hook(lambda *_: self._step(1)))
            self._hooks.append(
                module.register_forward_hook(lambda *_: self._step(-1), always_call=True)
            )
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def _step(self, change: int) -> None:
        self._deaf += change

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self._deaf and (func is torch.Tensor.size or func == _SHAPE):
            if isinstance(out, int):
                dim = (*args[1:], *(kwargs or {}).values())[0]
                return _tag(out, (args[0], dim), self._sized)
            sizes = [_tag(size, (args[0], dim), self._sized) for dim, size in enumerate(out)]
            return torch.Size(sizes)
        name = getattr(func, "__name__", "")
        find, report = _FINDERS.get(name), self._sized
        if find is None:
            find, report = _CREATORS.get(name), self._created
        if find is not None:
            try:
                found = [*find(out, args, kwargs or {})]
            except (TypeError, ValueError, IndexError):  # a form of the call that is not foreseen
                found = []
            for tag, tensor, dim in found:
                if isinstance(tag, Tagged):
                    report(tag.source, tensor, dim)
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


def _pad(out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Found:
    amounts = (*args[1:2], kwargs.get("pad"))[0]
    for number, amount in enumerate(amounts):
        dim = -1 - number // 2
        if isinstance(amount, Tagged):
            yield amount, out.narrow(dim, -amount if number % 2 else 0, amount), dim


def _normalized(out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Found:
    shape = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
    yield from ((size, out, dim - len(shape)) for dim, size in enumerate(shape))


def _getitem(_out: Any, args: tuple[Any, ...], _: dict[str, Any]) -> Found:
    x, index = args[:2]
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
    "pad": _pad,
    "layer_norm": _normalized,
    "rms_norm": _normalized,
    "__getitem__": _getitem,
    "__setitem__": _getitem,
}


def _square(out: Any, args: tuple[Any, ...], _: dict[str, Any]) -> Found:
    yield from ((size, out, dim) for dim, size in enumerate((args * 2)[:2]))


def _counted(out: Any, args: tuple[Any, ...], _: dict[str, Any]) -> Found:
    if len(args) == 1:
        yield args[0], out, 0


def _new(out: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Found:
    yield from _shape(out, args if args and isinstance(args[0], Tensor) else (None, *args), kwargs)


_CREATORS: dict[str, Callable[[Any, tuple[Any, ...], dict[str, Any]], Found]] = {
    **dict.fromkeys(("zeros", "ones", "empty", "full", "rand", "randn"), _new),
    **dict.fromkeys(("new_zeros", "new_ones", "new_empty", "new_full"), _new),
    "eye": _square,
    "arange": _counted,
}
"""Functions that make a constant."""
