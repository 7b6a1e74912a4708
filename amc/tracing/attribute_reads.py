"""Which of its modules' integers a forward reads.

What the traced forward does not read may be set to another value without a change of what it
computes; what it does read is right as it stands, or is followed (:mod:`amc.tracing.sizes`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.jit import ScriptModule


def integer_attributes(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Any]]:
    """Path, module, name and value of every integer of a network's own modules, not PyTorch's.

    Alone, or in a list or tuple of nothing else.
    """
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch.nn.") or isinstance(module, ScriptModule):
            continue
        for name, value in list(vars(module).items()):
            many = type(value) in (list, tuple) and value and all(type(x) is int for x in value)
            if type(value) is int or many:
                yield f"{path}.{name}" if path else name, module, name, value


@contextmanager
def recorded_reads(model: nn.Module) -> Iterator[set[str]]:
    """The paths of the integer attributes that are read inside of the context.

    The classes of the modules get a descriptor for each name meanwhile, which finds the value where
    it was.
    """
    read: set[str] = set()
    paths: dict[tuple[int, str], str] = {}
    names: dict[tuple[type, str], None] = {}
    for path, module, name, _ in integer_attributes(model):
        paths[id(module), name] = path
        names[type(module), name] = None
    with ExitStack() as stack:
        for kind, name in names:
            before = vars(kind).get(name, _ABSENT)
            try:
                setattr(kind, name, _Watched(name, before, paths, read))
            except (AttributeError, TypeError):  # a class that cannot be changed: all are read
                read |= {path for (_, other), path in paths.items() if other == name}
            else:
                stack.callback(_put_back, kind, name, before)
        yield read


_ABSENT: Any = object()


def _put_back(kind: type, name: str, before: Any) -> None:
    if before is _ABSENT:
        delattr(kind, name)
    else:
        setattr(kind, name, before)


class _Watched:
    """An attribute that lives in its module as before, and notes who reads it."""

    def __init__(
        self, name: str, default: Any, paths: dict[tuple[int, str], str], read: set[str]
    ) -> None:
        self._name, self._default, self._paths, self._read = name, default, paths, read

    def __get__(self, instance: Any, owner: type) -> Any:
        own = {} if instance is None else vars(instance)
        if self._name in own:
            path = self._paths.get((id(instance), self._name))
            if path is not None:
                self._read.add(path)
            return own[self._name]
        if self._default is _ABSENT:
            raise AttributeError(f"{owner.__name__!r} has no attribute {self._name!r}")
        return self._default

    def __set__(self, instance: Any, value: Any) -> None:
        vars(instance)[self._name] = value

    def __delete__(self, instance: Any) -> None:
        if vars(instance).pop(self._name, _ABSENT) is _ABSENT:
            raise AttributeError(self._name)
