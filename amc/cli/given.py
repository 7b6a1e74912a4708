"""What the user stated of the settings of a command."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from amc.utils.options import OptionOfField


@dataclass(frozen=True)
class Given:
    """What the user stated of some settings: first what was typed, then what a file says."""

    options: Mapping[str, OptionOfField]
    typed: Mapping[str, Any] = field(default_factory=dict)
    """Values of the options that were typed, by path; of one with a form of its own: the texts."""
    file: Mapping[str, Any] = field(default_factory=dict)
    """The tables of ``--config FILE``."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """The command's own, by path, where they differ from the fields'."""

    def __getitem__(self, path: str) -> Any:
        """The value of the option of ``path``, its default where nobody stated it."""
        for values in (self.typed, _flat(self.file, self.options), self.defaults):
            if path in values:
                return values[path]
        return self.options[path].field.get_default(call_default_factory=True)

    def stated_in_file(self) -> dict[str, Any]:
        """What the file says of the command's options, by path."""
        return _flat(self.file, self.options)

    def settings(self) -> dict[str, Any]:
        """What was stated, nested as the settings are, without the typed texts."""
        values = _copy(self.file)
        for path, value in self.defaults.items():
            if path not in _flat(self.file, self.options):
                _put(values, path, value)
        for path, value in self.typed.items():
            option = self.options[path].option
            if not option.texts:
                _put(values, path, _split(value) if option.commas else value)
        return values

    def inside(self, table: str) -> Given:
        """What was stated of the settings in that table."""

        def cut(values: Mapping[str, Any]) -> dict[str, Any]:
            begin = f"{table}."
            return {k.removeprefix(begin): v for k, v in values.items() if k.startswith(begin)}

        file = self.file.get(table) or {}
        return Given(cut(self.options), cut(self.typed), file, cut(self.defaults))


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, dict) else v for k, v in values.items()}


def _put(values: dict[str, Any], path: str, value: Any) -> None:
    *tables, name = path.split(".")
    for table in tables:
        values = values.setdefault(table, {})
    values[name] = value


def _flat(values: Mapping[str, Any], paths: Mapping[str, Any]) -> dict[str, Any]:
    """The values at ``paths``, of those that are there."""
    found = {}
    for path in paths:
        *tables, name = path.split(".")
        table: Any = values
        for one in tables:
            table = table.get(one) or {}
        if name in table:
            found[path] = table[name]
    return found
