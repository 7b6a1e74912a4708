"""Proposals to episodes: where plans are evaluated, and that none is evaluated twice."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self

from amc.envs.problem import PruningProblem
from amc.envs.rollout import Proposal
from amc.errors import EvaluationError
from amc.pipeline.worker_pool import WorkerPool
from amc.records.episode import Episode

Widths = tuple[int, ...]


class Scorer:
    """Evaluates proposals in this process, or side by side in ``workers`` others.

    Args:
        problem: concludes the episodes, and has the evaluation.
        workers: 1: evaluate here.
        known: quality by widths, as far as it is known before.

    Raises:
        ConfigError: the evaluation cannot be sent to another process.
    """

    def __init__(
        self, problem: PruningProblem, workers: int, known: Mapping[Widths, Mapping[str, float]]
    ) -> None:
        self._problem = problem
        self._known = dict(known)
        self._pool = WorkerPool(problem.evaluate, workers) if workers > 1 else None

    def start(self) -> None:
        """Have the workers ready, so that what keeps them from it is known early."""
        if self._pool is not None:
            self._pool.start()

    def __call__(self, proposals: Sequence[Proposal]) -> list[Episode]:
        """The episodes of the proposals, in their order.

        Raises :class:`EvaluationError`, naming the widths, where one cannot be scored.
        """
        plans = [p.widths for p in proposals if p.widths not in self._known]
        plans = list(dict.fromkeys(plans))
        seconds: dict[Widths, float] = {}
        if plans:
            results = self._pool(plans) if self._pool is not None else self._here(plans)
            for widths, (quality, taken) in zip(plans, results, strict=True):
                self._known[widths] = quality
                seconds[widths] = taken
        return [
            self._problem.conclude(p, self._known[p.widths], seconds.pop(p.widths, 0.0))
            for p in proposals
        ]

    def _here(self, plans: Iterable[Widths]) -> Iterator[tuple[Mapping[str, float], float]]:
        for widths in plans:
            started = time.perf_counter()
            try:
                quality = self._problem.evaluate(widths)
            except EvaluationError as error:
                raise EvaluationError(f"widths {list(widths)}: {error}") from error
            yield quality, time.perf_counter() - started

    def __enter__(self) -> Self:
        if self._pool is not None:
            self._pool.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.__exit__(*error)
