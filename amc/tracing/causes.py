"""Which operation made channels one: asked only where that leaves nothing to choose."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor


class Causes:
    """The unions of a trace in order, each with the operation that was being followed."""

    def __init__(self) -> None:
        self.current: Callable[[], str] | None = None
        """Says which operation is being followed; None between operations."""
        self._log: list[tuple[Tensor, Tensor, str]] = []

    def note(self, left: Tensor, right: Tensor) -> None:
        """``left`` and ``right``, (pairs,) ids, are united."""
        if self.current is not None:
            self._log.append((left, right, self.current()))

    def of(self, ids: Sequence[int]) -> str | None:
        """What made the last of ``ids`` one with all others; None where no operation did."""
        groups: dict[int, list[int]] = {}  # by an id: what it is one with
        wanted = {*ids}
        for left, right, cause in self._log:
            for a, b in zip(left.tolist(), right.tolist(), strict=True):
                one, other = groups.setdefault(a, [a]), groups.setdefault(b, [b])
                if one is other:
                    continue
                small, large = sorted((one, other), key=len)
                large += small
                groups.update(dict.fromkeys(small, large))
                if len(large) >= len(wanted) and wanted <= {*large}:
                    return cause
        return None
