"""Build the environment of a task, or one from names alone (what Gymnasium's registry calls)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from amc.bounds import Bounds
from amc.config import DataConfig, EvaluateConfig, ModelConfig, SearchConfig
from amc.cost.budget import Budgets, parse_budget, resolve
from amc.cost.quantities import Bound
from amc.cost.table import CostTable, Latency
from amc.envs.problem import Prior, PruningProblem
from amc.envs.pruning import PruningEnv
from amc.envs.reference_plan import TUNED, Lost, Tuned, numbered, tune
from amc.envs.reward import FloorReward, make_reward
from amc.envs.sensitivity import Sensitivity
from amc.errors import ConfigError
from amc.latency.device import DeviceLatency, OnStage
from amc.pruning.find_units import find_units
from amc.pruning.importance.growth import growth_gains
from amc.pruning.plan_evaluator import PlanEvaluator
from amc.pruning.slicing.failures import explained
from amc.pruning.slicing.slice import slice_model
from amc.task import Task
from amc.tracing.units import Units
from amc.vision.task import image_task


def make_problem(
    task: Task,
    config: SearchConfig,
    *,
    traced: Units | None = None,
    latency: Callable[[Units], Latency] | None = None,
    on_unit: Callable[[int, int], None] | None = None,
    on_stage: OnStage | None = None,
) -> PruningProblem:
    """Trace and verify ``task.model``, and make a problem of its units, costs and quality.

    ``on_unit(done, total)`` reports the units that are proven, ``on_stage(what, done, total)`` the
    rest. ``traced`` is the network as it was traced already; ``latency`` models the units'
    latency where the settings ask for one (None: it is measured in their backend).

    Raises :class:`UnitError` where nothing can be pruned, :class:`BudgetError` for a budget out of
    reach, and :class:`ConfigError` for an accuracy that the dense network itself does not have, or
    an importance that looks at images which the task does not have.
    """
    importance = config.importance or task.importance
    units = find_units(
        task.model,
        task.example_inputs,
        importance=importance,
        calibration=task.calibration,
        loss=task.loss,
        seed=config.seed,
        on_unit=on_unit,
        traced=traced,
        **{name: getattr(config, name) for name in Bounds.model_fields},
    )
    if config.timed and latency is None:
        latency = DeviceLatency(task.model, task.example_inputs, config.latency).latency_model
    cost = CostTable(units, latency(units) if config.timed and latency else None)
    evaluate = PlanEvaluator(task, units)
    limits, reward = config.budget, make_reward(config.reward)
    if config.min_accuracy is not None:
        _check_floor(config.min_accuracy, evaluate(units.dense_widths))
        limits = _from_least(limits, config.minimise, units, cost)
        reward = FloorReward(config.min_accuracy, config.minimise, cost.dense(config.minimise))
    budgets = resolve(limits, units, cost)
    known, tuned, probe = None, [], None
    if task.probe is not None:
        lost = partial(_lost, task.model, task.example_inputs, units, task.probe)
        known, probe = _measure(units, lost, importance, on_stage), numbered(lost)
        tuned = _tune(task, units, cost, budgets, known, probe, on_stage)
    prior = Prior([unit.scores for unit in units], known, tuned, probe)
    return PruningProblem(units, cost, budgets, evaluate, reward, prior, config.constraint)


def _lost(
    model: nn.Module,
    example_inputs: Any,
    units: Units,
    probe: Callable[[nn.Module], float],
    widths: tuple[int, ...],
) -> float:
    small = slice_model(model, units, widths)
    with explained(small, example_inputs):
        return probe(small)


def _measure(units: Units, lost: Lost, importance: str, on_stage: OnStage | None) -> Sensitivity:
    # Only this criterion is on one scale for all units.
    gradient = [float(unit.scores.sum()) for unit in units] if importance == "taylor" else None
    told = partial(on_stage, "halved units") if on_stage is not None else None
    return Sensitivity.measure(units, lost, gradient, told)


def _tune(
    task: Task,
    units: Units,
    cost: CostTable,
    budgets: Budgets,
    known: Sensitivity,
    probe: Lost,
    on_stage: OnStage | None,
) -> list[Tuned]:
    """Of the budget, or of some in a range."""
    gains = None
    if task.divergence is not None:
        gains = partial(growth_gains, task.model, units, divergence=task.divergence)
    bounded = [budget for budget in budgets.spread(TUNED) if budget.limits]
    tuned = []
    for i, budget in enumerate(bounded):
        tuned.append(tune(units, cost, known, budget, probe, gains))
        if on_stage is not None:
            on_stage("plans to begin with", i + 1, len(bounded))
    return tuned


def _check_floor(floor: float, dense: Mapping[str, float]) -> None:
    accuracy = dense.get("accuracy")
    if accuracy is None:
        raise ConfigError(f"min_accuracy {floor:g}: this task's evaluation gives no accuracy")
    if accuracy < floor:
        raise ConfigError(
            f"min_accuracy {floor:g}: the dense network itself has {accuracy:.4f} on search-val; "
            "ask for less"
        )


def _from_least(
    limits: Mapping[str, Bound], minimise: str, units: Units, cost: CostTable
) -> dict[str, Bound]:
    """Budgets from the least achievable on: who looks for the cheapest network tries all costs."""
    bound, dense = limits.get(minimise, 1.0), cost.dense(minimise)
    if not isinstance(bound, tuple):
        least = cost.function(minimise)([unit.widths[0] for unit in units])
        bound = math.ceil(least), math.ceil(bound * dense) if isinstance(bound, float) else bound
    return {minimise: bound, **{name: x for name, x in limits.items() if name != minimise}}


def make_named(
    model: str = "amc:smallcnn",
    weights: str | None = None,
    data: str = "digits",
    budget: str = "flops=0.5",
    reward: str = "kl",
    constraint: str = "projection",
    images: int = 1000,
    seed: int = 0,
) -> PruningEnv:
    """The environment ``amc/Pruning-v0``: everything by name, nothing handed over as an object."""
    model_config, data_config = ModelConfig(spec=model, weights=weights), DataConfig(spec=data)
    values = {"budget": parse_budget(budget), "reward": reward, "constraint": constraint}
    config = SearchConfig.parse({"evaluate": EvaluateConfig(images=images), "seed": seed, **values})
    task = image_task(model_config, data_config, config.evaluate, seed=seed, progress=False)
    return PruningEnv(make_problem(task, config))
