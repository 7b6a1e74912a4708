"""What does work side by side: an interface that says nothing of processes or machines.

:class:`Engine` is all that the evaluation of plans and the jobs of a comparison know of. To
distribute them over machines, write a class with its methods and construct it where
:class:`amc.utils.process_pool.ProcessPool` is constructed now. It gets the same: a function that
unpacks the payload, once for each worker, into the function that handles items; both are at the top
level of a module, and the payload is bytes. It owes the same: results by the number of the item, an
item done again whose worker died, and words instead of exceptions, as not every exception pickles.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, Protocol, Self, TypeVar

Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)

Tell = Callable[[Any], None]
"""Sends an event from within the work on an item; what it sends must pickle."""
OnEvent = Callable[[int, Any], None]
"""Hears an event, and the number of the item that it is from."""


class Failed(NamedTuple):
    """An exception, in words."""

    message: str
    trace: str


class Died(NamedTuple):
    """The last of the workers that ended while they were at an item."""

    end: str
    """How: the name of a signal, or ``exit status N``."""


class NotReadyError(Exception):
    """A worker could not unpack the payload, or ended before it had."""

    def __init__(self, reason: Failed | Died) -> None:
        super().__init__(*reason)
        self.reason = reason


class Engine(Protocol[Item_contra, Result_co]):
    """Workers that handle items; a context manager that ends them, whatever they are doing."""

    def start(self) -> None:
        """Have all workers ready; raises :class:`NotReadyError`."""

    def run(
        self, items: Sequence[Item_contra], on_event: OnEvent = ...
    ) -> Generator[tuple[int, Result_co | Failed | Died], None, None]:
        """The number and the result of each item, as they finish; ``on_event`` is called meanwhile.

        Items are begun in their order. Closing the generator ends the work under way. Raises
        :class:`NotReadyError`.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...
