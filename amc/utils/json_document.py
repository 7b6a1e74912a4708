"""Settings in a JSON file of their own, such as ``plan.json``."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Self

from pydantic import ValidationError

from amc.errors import RunError
from amc.utils.atomic_files import replacing
from amc.utils.settings import Settings, explain


class JsonDocument(Settings):
    """Base of what is read from a file, checked, and written to it in one step."""

    kind: ClassVar[str]
    """What a sound file holds, for messages: ``a sound plan``."""
    fault: ClassVar[type[Exception]] = RunError
    """What :meth:`load` raises."""
    absent: ClassVar[str] = ""
    """What to do, or where such a file comes from, where there is none."""
    unsound: ClassVar[str] = ""
    """What to do with a file that is not sound."""
    indent: ClassVar[int | None] = 1

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what :meth:`save` wrote; raises :attr:`fault` where it is missing or not sound."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise cls.fault(f"{path}: no such file{cls.absent}") from None
        except OSError as error:
            raise cls.fault(f"{path}: cannot be read: {error.strerror}") from None
        except ValidationError as error:
            raise cls.fault(f"{path}: not {cls.kind}: {explain(error)}{cls.unsound}") from None

    def save(self, path: Path) -> None:
        """Write it, replacing an older file in one step."""
        with replacing(path) as draft:
            draft.write_text(self.model_dump_json(indent=self.indent) + "\n", encoding="utf-8")
