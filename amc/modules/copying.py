"""Copies of networks, whatever hangs on them.

``copy.deepcopy`` fails on what strangers keep in a module: locks, open files, loggers' handlers,
scripted functions, streams, results of an earlier forward. None of that is a weight, so the copy
shares it with the original, and results are detached; whether the network computes the same without
a copy of its own is proven as for every other.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.jit import ScriptModule

from amc.errors import ModelError
from amc.utils.formatting import one_line

Network = TypeVar("Network", bound=nn.Module)
_Memo = dict[int, Any]

_DEEPEST = 5
"""How far inside of an attribute is looked for what cannot be copied."""

_REGISTERED = ("_parameters", "_buffers", "_modules")
_PLAIN = int | float | str


def copy_model(model: Network, memo: Mapping[int, Any] | None = None) -> Network:
    """``copy.deepcopy(model)``, in which what cannot be copied is shared with ``model``.

    Args:
        model: a network.
        memo: by the ``id`` of an object of ``model``, what takes its place in the copy, as for
            ``copy.deepcopy``.

    Raises:
        ModelError: a tensor or a module of it cannot be copied; names the attribute.
    """
    known = dict(memo or {})
    filled = dict(known)
    try:
        copied = copy.deepcopy(model, filled)
    except Exception:  # whatever the objects' own code raises
        instead = known | _instead(model, known)
        filled = dict(instead)
        try:
            copied = copy.deepcopy(model, filled)
        except Exception as error:
            raise _cannot(*_blamed(model, instead), error) from error
    _redirect(copied, filled)
    _match_scripted(model, copied, known)
    return copied


class Copyable:
    """A network for code of others that deep-copies what it is given: it gets the copy of ours."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        """A copy of the network, without this shell."""
        return copy_model(self._model)


def _instead(model: nn.Module, known: _Memo) -> _Memo:
    """What takes the place of objects that cannot be copied, by their ``id``."""
    modules, tensors = dict(model.named_modules()), dict(_named_tensors(model))
    # Modules and weights count as copied: each is looked at by itself.
    search = _Search(known | {id(x): x for x in (*modules.values(), *tensors.values())})
    for path, module in modules.items():
        for name, value in vars(module).items():
            if name not in _REGISTERED:
                search.settle(value, f"{path}.{name}" if path else name, _DEEPEST)
    search.memo = dict(known)
    for name, tensor in tensors.items():
        if id(tensor) not in known:
            search.settle(tensor, name, 0)
    return search.instead


def _blamed(model: nn.Module, memo: _Memo) -> tuple[str, nn.Module]:
    """The innermost module that cannot be copied."""
    for path, module in reversed([*model.named_modules()]):
        try:
            copy.deepcopy(module, dict(memo))
        except Exception:
            return path or "the network", module
    return "the network", model


class _Search:
    """For the parts that cannot be copied."""

    def __init__(self, memo: _Memo) -> None:
        self.memo, self.instead = memo, dict[int, Any]()
        self._seen = set[int]()

    def settle(self, value: Any, path: str, depth: int) -> None:
        """Fill ``instead`` so far that ``value`` can be copied."""
        if isinstance(value, _PLAIN) or _empty(value) or id(value) in self._seen:
            return
        self._seen.add(id(value))
        error = self._failure(value)
        if error is None:
            return
        if isinstance(value, Tensor):
            if value.grad_fn is None:
                raise _cannot(path, value, error)
            self.instead[id(value)] = value.detach().clone()
            return
        if depth:
            for name, part in _parts(value):
                self.settle(part, f"{path}.{name}", depth - 1)
            if self._failure(value) is None:
                return
        if isinstance(value, nn.Module):
            raise _cannot(path, value, error)
        self.instead[id(value)] = value

    def _failure(self, value: Any) -> Exception | None:
        try:
            copy.deepcopy(value, self.memo | self.instead)
        except Exception as error:  # whatever the objects' own code raises
            return error
        return None


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, dict | list | tuple | set) and not value)


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object holds, with names; of Python's own modules and classes nothing is copied."""
    if isinstance(value, Mapping):
        yield from ((str(key), part) for key, part in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((str(number), part) for number, part in enumerate(value))
    elif not isinstance(value, ModuleType | type):
        yield from getattr(value, "__dict__", {}).items()


def _redirect(copied: nn.Module, filled: _Memo) -> None:
    """Let the copy's weak references refer to its own parts."""
    for module in copied.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, weakref.ref) and id(value()) in filled:
                vars(module)[name] = weakref.ref(filled[id(value())])


def _match_scripted(model: nn.Module, copied: nn.Module, known: _Memo) -> None:
    """Scripted modules copy their tensors themselves, as results, and know nothing of ``known``."""
    if not any(isinstance(module, ScriptModule) for module in model.modules()):
        return
    theirs = dict(_named_tensors(copied))
    for name, tensor in _named_tensors(model):
        wanted = known.get(id(tensor), theirs[name])
        if theirs[name] is not wanted:
            theirs[name].data = wanted.detach()
        theirs[name].detach_().requires_grad_(tensor.requires_grad)


def _named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [*model.named_parameters(), *model.named_buffers()]


def _cannot(path: str, value: Any, error: Exception) -> ModelError:
    return ModelError(
        f"{path} ({type(value).__name__}) cannot be copied: {one_line(error, 120)}; keep it out of "
        "the network, or give its class a __deepcopy__"
    )
