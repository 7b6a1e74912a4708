"""A job of a comparison, one search with one agent and one seed, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError, model_validator

from amc.comparison.settings import CompareConfig
from amc.config import SearchConfig
from amc.errors import RunError
from amc.pipeline.search import search
from amc.records.episode import fractions_by_quantity
from amc.registry import AGENTS
from amc.task import Task
from amc.utils.atomic_files import replacing
from amc.utils.settings import Settings, explain


class Job(NamedTuple):
    """One search."""

    agent: str
    """``NAME`` or ``NAME:PRESET``."""
    seed: int

    def __str__(self) -> str:
        return f"{self.agent}, seed {self.seed}"


class Outcome(Settings):
    """A line of ``runs.jsonl``: a finished job."""

    agent: str
    seed: int
    rewards: tuple[float, ...]
    """Of each evaluated plan, in the order of the search."""
    quality: dict[str, tuple[float, ...]]
    """The same plans' ``kl``, ``accuracy``, ... by name."""
    widths: tuple[int, ...]
    """Kept widths of the best plan."""
    kept: dict[str, float]
    """Its costs as fractions of the dense network's, by quantity."""
    seconds: dict[str, float]
    """Wall time of the whole search: ``agent``, ``project``, ``evaluate``."""

    @model_validator(mode="before")
    @classmethod
    def _by_quantity(cls, values: Any) -> Any:
        """Older files have a field for each cost."""
        return fractions_by_quantity(values)

    @property
    def job(self) -> Job:
        """What it is the outcome of."""
        return Job(self.agent, self.seed)


def all_jobs(config: CompareConfig) -> list[Job]:
    """Every agent with every seed, seed by seed; an agent without randomness only once."""
    return [
        Job(agent, seed)
        for seed in range(config.seeds)
        for agent in dict.fromkeys(config.agents)
        if seed == 0 or is_seeded(agent)
    ]


def play(
    task: Task, config: SearchConfig, job: Job, on_best: Callable[[int, float], None]
) -> Outcome:
    """Search; ``on_best(evaluated, reward)`` hears of the best reward after every plan."""
    result = search(
        task, config=config, on_episode=lambda one, best: on_best(one.number, best.reward)
    )
    history = result.history
    return Outcome(
        agent=job.agent,
        seed=job.seed,
        rewards=tuple(episode.reward for episode in history),
        quality={
            name: tuple(episode.quality[name] for episode in history) for name in history[0].quality
        },
        widths=result.best.widths,
        kept=result.best.kept,
        seconds={
            phase: sum(episode.seconds[phase] for episode in history)
            for phase in history[0].seconds
        },
    )


def read_outcomes(path: Path) -> list[Outcome]:
    """Every finished job of ``runs.jsonl``, none where there is no such file.

    A last line that a crash has cut off is skipped. Raises :class:`RunError` for any other line
    that is not an outcome, with its number.
    """
    lines = path.read_bytes().splitlines() if path.exists() else []
    outcomes = []
    for number, line in enumerate(lines, start=1):
        try:
            outcomes.append(Outcome.model_validate_json(line))
        except ValidationError as error:
            if number == len(lines) and error.errors()[0]["type"] == "json_invalid":
                break
            raise RunError(
                f"{path}, line {number}: not an outcome: {explain(error)}; remove the line"
            ) from None
    return outcomes


def write_outcomes(path: Path, outcomes: list[Outcome]) -> None:
    """Replace ``runs.jsonl`` in one step, a line an outcome."""
    with replacing(path) as draft:
        draft.write_text("".join(f"{one.model_dump_json()}\n" for one in outcomes))


def is_seeded(agent: str) -> bool:
    """Whether something in the agent is random, as far as is known."""
    name = agent.partition(":")[0]
    return name not in AGENTS or bool(AGENTS.entry(name).traits["seeded"])
