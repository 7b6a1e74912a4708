"""Every ATen operation of a forward, in its parts, and with a name that is the same in each run."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from amc.tracing.rules import find_rule


class Execution(TorchDispatchMode):
    """Takes composite operations without a rule apart, and counts the operations of each kind.

    The n-th mean of one forward is the n-th mean of the next: that is its *place*, by which the
    masked twin finds what the trace has learned of it.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._counts: Counter[str] = Counter()

    def execute(
        self, operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any], place: str
    ) -> Any:
        """Run one operation, whose place is ``place``."""
        raise NotImplementedError

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if find_rule(func) is None:
            with self:
                decomposed = func.decompose(*args, **kwargs)
            if decomposed is not NotImplemented:
                return decomposed
        name = str(func.overloadpacket).removeprefix("aten.")
        self._counts[name] += 1
        return self.execute(func, args, kwargs, f"{name} ({self._counts[name]})")
