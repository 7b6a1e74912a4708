"""Images that cannot be read: named, counted, left out, and too many of them are an error."""

from __future__ import annotations

from amc.errors import DataError

_NAMED = 3
"""Images that a message names."""


class UnreadableError(DataError):
    """One image cannot be read; the others may be fine."""


class Skipped:
    """The unreadable images of all splits of a data set, each counted once.

    Args:
        allowed: how many are left out before :meth:`add` raises.
    """

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self._reasons: dict[str, str] = {}
        self._noted = 0

    def __len__(self) -> int:
        return len(self._reasons)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the images that were left out, in the order in which they were met."""
        return tuple(self._reasons)

    def add(self, name: str, reason: str) -> None:
        """Count an image. Raises :class:`DataError` where it is one too many."""
        self._reasons.setdefault(name, reason)
        if len(self) > self.allowed:
            raise DataError(
                f"{_images(len(self))} cannot be read, more than --max-corrupt {self.allowed}: "
                f"{self._named(self.names)}; repair or remove them, or allow more (--max-corrupt)"
            )

    def news(self) -> tuple[str, ...]:
        """A line about the images that were met since this was asked last; none where none were.

        To be asked after reading, and after every epoch of images that are read from disk.
        """
        fresh, self._noted = self.names[self._noted :], len(self)
        if not fresh:
            return ()
        total = "" if len(fresh) == len(self) else f", {len(self)} by now"
        return (
            f"{_images(len(fresh))} cannot be read and {_are(len(fresh))} left out{total}: "
            f"{self._named(fresh)}",
        )

    def _named(self, names: tuple[str, ...]) -> str:
        first = ", ".join(f"{name} ({self._reasons[name]})" for name in names[:_NAMED])
        return first + (", ..." if len(names) > _NAMED else "")


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
