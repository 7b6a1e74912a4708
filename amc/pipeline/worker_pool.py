"""Plans evaluated side by side, each worker in a process of its own.

Each is sent what it needs once. A worker that dies is replaced, and its plan evaluated again. What
comes out does not depend on which worker was quicker.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import torch

from amc.errors import ConfigError, EvaluationError
from amc.models.factory import import_file, imported_files
from amc.utils.engine import Died, Engine, Failed, NotReadyError, Tell
from amc.utils.process_pool import ProcessPool

if TYPE_CHECKING:
    from amc.envs.problem import Evaluate

DEATHS = 3
"""Workers that may die on one plan before the plan is given up."""


class Scored(NamedTuple):
    """What a worker found."""

    quality: dict[str, float]
    seconds: float
    """The worker's own time."""


class WorkerPool:
    """``count`` processes that evaluate plans; a context manager that ends them.

    Each works with its share of PyTorch's threads, at least one. On CUDA all of them use the
    device of the network, and each holds a copy of network and images there.

    Args:
        evaluate: widths to quality; a copy of it is sent to every worker.
        count: how many processes.

    Raises:
        ConfigError: ``evaluate`` cannot be sent.
    """

    def __init__(self, evaluate: Evaluate, count: int) -> None:
        threads = max(1, torch.get_num_threads() // count)
        self._engine: Engine[tuple[int, ...], Scored] = ProcessPool(
            partial(_unpack, threads, imported_files()), _pack(evaluate), count, attempts=DEATHS
        )

    def start(self) -> None:
        """Start the processes, if they are not running, and wait until all are ready.

        Raises :class:`ConfigError` where one does not become ready.
        """
        with _saying_what_keeps_them():
            self._engine.start()

    def __call__(self, plans: Sequence[tuple[int, ...]]) -> list[Scored]:
        """The quality of each plan, in their order.

        Raises :class:`EvaluationError`, naming the widths, for a plan whose evaluation fails, or
        ends :data:`DEATHS` workers.
        """
        done: dict[int, Scored] = {}
        with _saying_what_keeps_them(), contextlib.closing(self._engine.run(plans)) as results:
            for number, result in results:
                if not isinstance(result, Scored):
                    raise _error(plans[number], result)
                done[number] = result
        return [done[number] for number in range(len(plans))]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._engine.__exit__(*error)


def _unpack(
    threads: int, files: Sequence[Path], payload: bytes
) -> Callable[[tuple[int, ...], Tell], Scored]:
    """In a worker: make of what it was sent the function that evaluates a plan."""
    torch.set_num_threads(threads)
    for file in files:  # whose classes are about to be unpickled
        import_file(file)
    # The parent's own objects, not a file from elsewhere.
    evaluate: Evaluate = torch.load(io.BytesIO(payload), weights_only=False)
    return partial(_evaluate, evaluate)


def _evaluate(evaluate: Evaluate, widths: tuple[int, ...], _tell: Tell) -> Scored:
    started = time.perf_counter()
    quality = {name: float(value) for name, value in evaluate(widths).items()}
    return Scored(quality, time.perf_counter() - started)


def _pack(evaluate: Evaluate) -> memoryview:
    """Pickled by PyTorch, which stores tensors that are views of one memory only once."""
    buffer = io.BytesIO()
    try:
        torch.save(evaluate, buffer)
    except Exception as error:  # pickle raises whatever an object's own code does
        raise _cannot_send(f"{type(error).__name__}: {error}") from error
    return buffer.getbuffer()


@contextlib.contextmanager
def _saying_what_keeps_them() -> Iterator[None]:
    """Turn what keeps workers from being ready into a :class:`ConfigError`."""
    try:
        yield
    except NotReadyError as error:
        if isinstance(error.reason, Failed):
            raise _cannot_send(error.reason.message) from error
        raise ConfigError(
            f"a worker process ended before it was ready ({error.reason.end}): each needs memory "
            "for network and images, and a script that searches with workers must do so "
            'under `if __name__ == "__main__":`; or search with workers = 1'
        ) from None


def _cannot_send(reason: str) -> ConfigError:
    return ConfigError(
        f"workers: the evaluation cannot be sent to another process: {reason}; define its "
        "functions and the network's classes at the top level of a module, or search with "
        "workers = 1"
    )


def _error(widths: tuple[int, ...], result: Failed | Died) -> EvaluationError:
    if isinstance(result, Died):
        return EvaluationError(
            f"widths {list(widths)}: evaluating this plan ended its process {DEATHS} times "
            f"({result.end}); out of memory? Try fewer workers"
        )
    error = EvaluationError(f"widths {list(widths)}: {result.message}")
    error.add_note(result.trace)
    return error
