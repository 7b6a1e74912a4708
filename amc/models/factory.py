"""Build a network by name or from a user's file, and load weights without executing anything."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import nn

from amc.config import ModelConfig
from amc.errors import AMCError, ModelError
from amc.models.architectures import NETWORKS
from amc.models.weights import load_weights
from amc.modules.checks import check_evaluates
from amc.modules.completing import ordinary_
from amc.modules.unwrapping import unwrapped

Factory = Callable[..., nn.Module]

_USER_MODULE = "_amc_user_"


def build_model(config: ModelConfig, **defaults: Any) -> nn.Module:
    """Build the network of ``config.spec`` in eval mode, and load ``config.weights`` if given.

    ``defaults`` (``num_classes``, ``in_channels``) reach the factory only where it takes them (see
    :func:`_takes`) and ``config.arguments`` does not set them.

    Raises :class:`ModelError` where the spec or an argument is wrong, and :class:`WeightsError`
    where the weights do not fit.
    """
    return build_resolved(config, **defaults).model


class Built(NamedTuple):
    """A network as its factory and its weights made it."""

    model: nn.Module
    config: ModelConfig
    """Builds the same without the defaults."""
    notes: tuple[str, ...]
    """What was chosen for the user, and why."""


def build_resolved(config: ModelConfig, **defaults: Any) -> Built:
    """:func:`build_model`, with all that was found out."""
    factory = _find_factory(config.spec)
    arguments = {name: value for name, value in defaults.items() if _takes(factory, name)}
    arguments |= config.arguments
    try:
        model = factory(**arguments)
    except AMCError:
        raise
    except Exception as error:  # whatever a factory raises, the user sees which call failed
        call = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        raise ModelError(
            f"{config.spec}: calling its factory with ({call}) raised "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{config.spec}: returned {type(model).__name__}; it must return a torch.nn.Module"
        )
    model, notes = unwrapped(model)
    check_evaluates(model)
    ordinary_(model)
    if config.weights is not None:
        notes += load_weights(model, config.weights)
    return Built(model.eval(), config.model_copy(update={"arguments": arguments}), notes)


def check_allowed(named: ModelConfig | str, source: Path, allow_factory: bool) -> None:
    """Refuse to run a Python file only because a file that may come from anywhere names it.

    ``source`` is the file that names a factory, an agent, or data. Raises :class:`ModelError` for
    one of the form ``path/to/file.py:function`` unless ``allow_factory``.
    """
    spec = named if isinstance(named, str) else named.spec
    if spec.rpartition(":")[0].endswith(".py") and not allow_factory:
        raise ModelError(
            f"{source} names {spec}, a Python file that would be run; if you trust it, allow "
            "it (--allow-factory)"
        )


def example_shape(spec: str) -> tuple[int, int, int]:
    """(channels, height, width) that a network is made for, as far as its name tells."""
    if spec == "amc:smallcnn":
        return (1, 8, 8)
    return (3, 32, 32) if spec.startswith("amc:") else (3, 224, 224)


def _find_factory(spec: str) -> Factory:
    source, _, name = spec.rpartition(":")
    if source.endswith(".py"):
        return find_function(Path(source).expanduser(), name)
    sources = {"amc": _from_amc, "torchvision": _from_torchvision, "timm": _from_timm}
    if source not in sources or not name:
        raise ModelError(
            f"model {spec!r}: must be amc:NAME, torchvision:NAME, timm:NAME "
            "or path/to/file.py:function"
        )
    return sources[source](name)


def _from_amc(name: str) -> Factory:
    if name not in NETWORKS:
        raise _unknown("amc", name, NETWORKS)
    return NETWORKS[name]


def _from_torchvision(name: str) -> Factory:
    from torchvision import models

    if name not in models.list_models():
        raise _unknown("torchvision", name, models.list_models())
    builder: Factory = models.get_model_builder(name)

    def factory(**arguments: Any) -> nn.Module:
        return builder(**{"weights": None, **arguments})

    return factory


def _from_timm(name: str) -> Factory:
    try:
        timm = importlib.import_module("timm")
    except ImportError:
        raise ModelError(
            f"model 'timm:{name}' needs the timm package: pip install amc-agent[timm]"
        ) from None
    if not timm.is_model(name):
        raise _unknown("timm", name, timm.list_models())

    def factory(*, in_channels: int | None = None, **arguments: Any) -> nn.Module:
        if in_channels is not None:
            arguments.setdefault("in_chans", in_channels)
        model: nn.Module = timm.create_model(name, **arguments)
        return model

    return factory


def _unknown(source: str, name: str, known: Iterable[str]) -> ModelError:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=5, cutoff=0.4) or names[:5]
    return ModelError(f"{source} has no model {name!r}; nearest: {', '.join(near)}")


def imported_files() -> list[Path]:
    """The users' Python files that this process has built networks from."""
    modules = [module for name, module in sys.modules.items() if name.startswith(_USER_MODULE)]
    return [Path(module.__file__) for module in modules if module.__file__]


def import_file(path: Path) -> ModuleType:
    """Run a user's Python file; raises :class:`ModelError` where that fails.

    Its classes can be unpickled in a process that has imported it in the same way.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file; a model spec is path/to/file.py:function")
    # Registered under a name of its own, so that pickling and dataclasses find the module.
    module_name = f"{_USER_MODULE}{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ModelError(f"{path}: cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    # The file may import its neighbours, as a script run from its folder could.
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code: anything may come
        del sys.modules[module_name]
        raise ModelError(f"{path}: importing it raised {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def find_function(path: Path, name: str) -> Factory:
    """A function of a user's Python file, which is run; raises :class:`ModelError` without one."""
    module = import_file(path)
    factory = getattr(module, name, None)
    if not callable(factory):
        own = [key for key, value in vars(module).items() if callable(value) and key[0] != "_"]
        near = difflib.get_close_matches(name, own, n=5, cutoff=0.4) or own[:5]
        raise ModelError(f"{path} has no function {name!r}; it has: {', '.join(near) or 'none'}")
    return factory  # type: ignore[no-any-return]


def _takes(factory: Factory, name: str) -> bool:
    """Whether ``factory`` names the keyword, or passes any on and it is ``num_classes``.

    Most factories that end in ``**kwargs`` understand ``num_classes``; other names they refuse.
    """
    parameters = inspect.signature(factory).parameters
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    return name in parameters or (anything and name == "num_classes")
