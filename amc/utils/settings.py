"""The base of typed settings: frozen, unknown keys refused, read from and written to TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from amc.errors import ConfigError
from amc.utils.atomic_files import replacing


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @classmethod
    def parse(cls, values: dict[str, Any], source: str = "settings") -> Self:
        """Validate ``values``; raises :class:`ConfigError` with one line for each fault."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{source}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """One readable line out of a pydantic error: where, what, and the value that was given."""
    faults = []
    for fault in error.errors():
        message = fault["msg"].removeprefix("Value error, ")
        if not fault["loc"]:  # of the whole, which is too much to show
            faults.append(message)
            continue
        where = ".".join(str(part) for part in fault["loc"])
        given = "" if fault["type"] == "missing" else f" (got {fault['input']!r})"
        faults.append(f"{where}: {message}{given}")
    return "; ".join(faults)


def save_toml(config: Settings, path: Path, **extra: Any) -> None:
    """Write ``config`` (and ``extra`` tables) as TOML, replacing an older file in one step.

    None is written by leaving the key out.
    """
    values = {**config.model_dump(mode="json", exclude_none=True), **extra}
    with replacing(path) as draft:
        draft.write_text(tomli_w.dumps(values))


def load_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises :class:`ConfigError` where it is missing or does not parse."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
