"""``--config FILE``: settings in the format of a run's ``config.toml``."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from amc.comparison.settings import CompareConfig
from amc.config import SearchConfig
from amc.errors import ConfigError
from amc.utils.options import settings_in
from amc.utils.settings import Settings, explain, load_toml

_NO_SETTINGS = ("versions", "inputs")
"""Tables of a run's file that say what the run was made with."""


def read_config(path: Path, kind: type[Settings]) -> dict[str, Any]:
    """The tables of the file at ``path``, checked; it need not say everything.

    For a comparison, the file may be a comparison's, or that of a search: what all searches have
    in common. Raises :class:`ConfigError` with the file's name for a file that cannot be read, a
    key that is no setting, and a value that is not allowed.
    """
    values = {k: v for k, v in load_toml(path).items() if k not in _NO_SETTINGS}
    if kind is CompareConfig and not values.keys() & kind.model_fields.keys():
        values = {"search": values}
    for key, known in _unknown(values, kind):
        near = difflib.get_close_matches(key.rpartition(".")[2], known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
        raise ConfigError(f"{path}: {key} is no setting; {hint}")
    try:
        kind.model_validate(_completed(values, kind))
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error)}") from None
    return values


def _unknown(
    values: dict[str, Any], kind: type[BaseModel], prefix: str = ""
) -> Iterator[tuple[str, list[str]]]:
    """Keys that are no fields of ``kind``, each with the fields that there are."""
    for key, value in values.items():
        known = kind.model_fields.get(key)
        if known is None:
            yield prefix + key, list(kind.model_fields)
            continue
        inner = settings_in(known)
        if inner is not None and isinstance(value, dict):
            yield from _unknown(value, inner, f"{prefix}{key}.")


def _completed(values: dict[str, Any], kind: type[Settings]) -> dict[str, Any]:
    """With what options may still say, so that only faults of the file itself are found."""
    if kind is CompareConfig:
        return {**values, "search": _completed(values.get("search", {}), SearchConfig)}
    given = dict(values)
    if isinstance(given.get("model"), dict):
        given["model"] = {"spec": "MODEL", **given["model"]}
    return {**given, "align": False, "start": given.get("start", "POLICY")}
