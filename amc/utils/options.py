"""What the command line calls a setting: stated once, with the field that the option sets.

An :class:`Option` is metadata of a field, ``Annotated[int, Option("--images")]``. The option takes
its default, bounds and type from the field, and its help from the field's docstring: the first
paragraph.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from amc.utils.registry import Registry

PLAN, AGENT, TUNING, RUN = "The plan", "The agent", "Finetuning", "The run"
"""Panels of the help pages."""

BEGINNINGS = ("search", "replay", "compare")
"""The commands that begin a search."""


@dataclass(frozen=True)
class Option:
    """The option that sets a field."""

    name: str
    commands: tuple[str, ...] = BEGINNINGS
    """The commands that have it."""
    panel: str | None = None
    """The part of the help page; None: the first one, without a title."""
    basic: bool = False
    """Whether ``--help`` shows it; ``--help-all`` shows all."""
    metavar: str | None = None
    texts: bool = False
    """Whether it is repeatable and has a form of its own (``flops=0.5``), which the command
    reads."""
    commas: bool = False
    """Whether several values are one word, with commas between them."""
    names: Registry[Any] | tuple[str, ...] = ()
    """The allowed names."""


@dataclass(frozen=True)
class OptionOfField:
    """A field of some settings, and its option."""

    path: str
    """Where the field is in the settings: ``evaluate.images``."""
    field: FieldInfo
    option: Option

    @property
    def name(self) -> str:
        """The option's name, ``--images``."""
        return self.option.name

    @property
    def names(self) -> tuple[str, ...]:
        """The allowed names; none where any value is allowed."""
        names = self.option.names
        return names.names() if isinstance(names, Registry) else names

    @property
    def help(self) -> str:
        """The first paragraph of the field's docstring, and the allowed names."""
        text = " ".join((self.field.description or "").split("\n\n")[0].split())
        text = text.replace("``", "`").removesuffix(".")
        names, known = self.option.names, self.names
        if not known:
            return text
        if isinstance(names, Registry) and not self.option.commas:
            known = tuple(f"{name} ({names.entry(name).summary})" for name in known)
            return f"{text}: {'; '.join(known)}"
        return f"{text}: {', '.join(known)}"

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """The least and the greatest value, where there is one."""
        ends: list[float | None] = []
        for words in (("ge", "gt"), ("le", "lt")):
            found = [getattr(one, word, None) for one in self.field.metadata for word in words]
            ends.append(next((end for end in found if end is not None), None))
        return ends[0], ends[1]


def options_of(kind: type[BaseModel], command: str | None = None) -> dict[str, OptionOfField]:
    """The options of the settings ``kind`` by path: all, or those of one command."""
    return {
        found.path: found
        for found in _walk(kind, "")
        if command is None or command in found.option.commands
    }


def _walk(kind: type[BaseModel], prefix: str) -> Iterator[OptionOfField]:
    for name, field in kind.model_fields.items():
        for one in field.metadata:
            if isinstance(one, Option):
                yield OptionOfField(prefix + name, field, one)
        inner = settings_in(field)
        if inner is not None:
            yield from _walk(inner, f"{prefix}{name}.")


def settings_in(field: FieldInfo) -> type[BaseModel] | None:
    """The class of settings that ``field`` holds; None where it holds a value."""
    several = get_origin(field.annotation) in (Union, UnionType)
    kinds = get_args(field.annotation) if several else (field.annotation,)
    return next((x for x in kinds if isinstance(x, type) and issubclass(x, BaseModel)), None)


def parameter_name(option: OptionOfField) -> str:
    """The option's name as a Python identifier: ``--min-keep`` is ``min_keep``."""
    return re.sub(r"\W+", "_", option.name.removeprefix("--").partition("/")[0])


def with_commas(values: Iterable[Any]) -> str:
    """Several values as the one word that an option with ``commas`` takes: ``0.5,0.25``."""
    return ",".join(
        f"{x:g}" if isinstance(x, float) and float(f"{x:g}") == x else str(x) for x in values
    )
