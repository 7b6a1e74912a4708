"""Before the first episode: the network is traced, its units are proven, latency is measured."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from amc.config import SearchConfig
from amc.cost.channel_multiple import KEPT_LATENCY, best_multiple
from amc.cost.quantities import ends
from amc.envs.make import make_problem
from amc.envs.problem import PruningProblem
from amc.latency.device import DeviceLatency
from amc.pipeline.assignment import Assignment, Listener
from amc.pruning.find_units import read_units


class Prepared(NamedTuple):
    """A search that can begin."""

    assignment: Assignment
    """With the settings as they are recorded: what was left to us is decided."""
    problem: PruningProblem
    device: DeviceLatency | None
    """What latency is measured on; None where it has no part in the search."""


def prepare(assignment: Assignment, tell: Listener) -> Prepared:
    """Trace the network, once, and put its units, costs and quality together.

    Raises what :func:`amc.envs.make.make_problem` and :class:`DeviceLatency` raise.
    """
    task, config = assignment.task, assignment.config
    # What ranks the channels is recorded, whatever the default will be.
    config = config.model_copy(update={"importance": config.importance or task.importance})
    traced = read_units(task.model, task.example_inputs)
    for operation in traced.uncounted:
        tell.on_note(f"{operation}: its arithmetic is not counted")
    made = partial(make_problem, task, traced=traced, on_unit=tell.on_unit, on_stage=tell.on_stage)
    if not config.timed:
        return Prepared(assignment.configured(config), made(config), None)
    device = DeviceLatency(
        task.model, task.example_inputs, config.latency, tell.on_stage, tell.on_note
    )
    if config.align:  # as it is recorded: a resumed search asks no more
        free = traced.limited(
            config.min_keep,
            exclude=config.exclude,
            min_width=config.min_width,
            gentle_ends=config.gentle_ends,
        )
        multiple = best_multiple(free, device.layers_alone(free), _kept_latency(config))
        config = config.model_copy(update={"round_to": {"all": multiple}, "align": False})
    recorded = assignment.recorded
    saved = recorded.folder.latency if recorded is not None else None
    problem = made(config, latency=partial(device.latency_model, saved=saved))
    return Prepared(assignment.configured(config), problem, device)


def _kept_latency(config: SearchConfig) -> tuple[float, float]:
    """Between which fractions of the dense latency plans will be looked for, if that is known."""
    low, high = ends(config.budget.get("latency_us", KEPT_LATENCY))
    return (low, high) if high <= 1 else KEPT_LATENCY
