"""Tables of what can be chosen by name: ours, and what other distributions add to them.

An entry names the place of its object, ``package.module:attribute``, which is imported when it is
first used. So a table can stand below everything that it names, and the command line can list the
names without importing any of it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from amc.errors import ConfigError

T = TypeVar("T")
Object = TypeVar("Object")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One name of a table."""

    name: str
    summary: str
    """A line of help: what it does."""
    target: str | T
    """The object, or where it is: ``package.module:attribute``."""
    traits: dict[str, Any] = field(default_factory=dict)
    """What else is known of it before it is imported; the table says which keys there are."""

    def load(self) -> T:
        """The object."""
        return imported(self.target) if isinstance(self.target, str) else self.target


class Registry(Generic[T]):
    """Entries by name, in the order in which they were added.

    Args:
        word: what an entry is, for messages: ``agent``.
        group: the group of entry points in which other distributions name theirs.
        traits: the traits of an entry that gives none, and their values.
    """

    def __init__(self, word: str, group: str, **traits: Any) -> None:
        self.word, self.group = word, group
        self._traits = traits
        self._entries: dict[str, Entry[T]] = {}
        self._looked_up = False

    def add(self, name: str, summary: str, target: str | T, **traits: Any) -> None:
        """Add an entry. Raises :class:`ConfigError` for a name or a trait that is not free."""
        unknown = traits.keys() - self._traits.keys()
        if name in self._entries or unknown:
            wrong = f"has no trait {', '.join(sorted(unknown))}" if unknown else "is there already"
            raise ConfigError(f"{self.word} {name!r} {wrong}")
        self._entries[name] = Entry(name, summary, target, {**self._traits, **traits})

    def register(self, name: str, summary: str, **traits: Any) -> Callable[[Object], Object]:
        """:meth:`add` as a decorator of the object."""

        def added(found: Object) -> Object:
            self.add(name, summary, found, **traits)  # type: ignore[arg-type]
            return found

        return added

    def names(self) -> tuple[str, ...]:
        """All names, those of other distributions last."""
        self._look_up()
        return tuple(self._entries)

    def entry(self, name: str) -> Entry[T]:
        """The entry of that name. Raises :class:`ConfigError` where there is none."""
        if name not in self._entries:
            self._look_up()
        if name not in self._entries:
            near = difflib.get_close_matches(name, self._entries, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise ConfigError(
                f"{self.word} {name!r} is unknown{hint}; choose from {', '.join(self._entries)}"
            )
        return self._entries[name]

    def load(self, name: str) -> T:
        """The object of that name. Raises :class:`ConfigError` where there is none."""
        return self.entry(name).load()

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[Entry[T]]:
        self._look_up()
        return iter(self._entries.values())

    def _look_up(self) -> None:
        """Take over what the installed distributions name in the group, once.

        Such an object says of itself what an entry of ours states beside it: ``summary``, by
        default the first line of its docstring, and its traits, as attributes.
        """
        if self._looked_up:
            return
        self._looked_up = True
        for point in entry_points(group=self.group):
            if point.name not in self._entries:
                found = point.load()
                described = (getattr(found, "__doc__", None) or point.value).strip().splitlines()
                traits = {k: getattr(found, k) for k in self._traits if hasattr(found, k)}
                self.add(point.name, getattr(found, "summary", described[0]), found, **traits)


def imported(place: str) -> Any:
    """The object at ``package.module:attribute``."""
    module, _, attribute = place.partition(":")
    return getattr(import_module(module), attribute)
