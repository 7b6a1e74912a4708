"""Pruning in stages: part of the way, a short finetuning, another search from there.

Each stage is a search of its own on the network that the stage before has left, in
``RUN/stages/1``, ``RUN/stages/2`` and so on; sensitivities are measured anew each time. The bounds
of the stages fall in equal ratios: for half the MACs in three stages .79, .63 and .50 of the dense
network's. Quality is still measured against the dense network, which also stays the teacher. The
plans are composed to one of the dense network's channels, which is what ``RUN`` holds, proven like
any other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from amc.config import FinetuneConfig, SearchConfig
from amc.errors import ConfigError, PlanError
from amc.pipeline.assignment import Listener, inputs_of, prepared
from amc.pipeline.recovery import recover
from amc.pipeline.search import search
from amc.pruning.apply import apply_plan
from amc.pruning.checkpoint import load_model, save_model
from amc.pruning.plan import Plan, UnitPlan
from amc.records.results import Results
from amc.records.run_folder import RunFolder
from amc.reporting.report import write_report
from amc.task import Epoch, Step, Task
from amc.training.finetune import unfinished

_FIRST_STAGES_SHARE = 0.5
"""Of the epochs, for all stages but the last together."""
_GENTLER_DECAY = 0.2
"""Factor on the weight decay before the last stage: weights are not to shrink yet."""


@dataclass(frozen=True)
class OnTraining:
    """Who is told how the trainings go on."""

    on_stage: Callable[[str], None] | None = None
    on_epoch: Callable[[Epoch], None] | None = None
    on_step: Callable[[Step], None] | None = None
    on_note: Callable[[str], None] | None = None


def prune_in_stages(
    task: Task, path: Path, config: SearchConfig, searching: Listener, training: OnTraining
) -> Results | None:
    """Prune ``task.model`` under ``config.budget`` in ``config.finetune.stages`` stages.

    What is there of an earlier call is gone on from: stages that have ended are read, the search or
    the training that was interrupted goes on. Returns None where Ctrl-C ended a search early.

    Raises :class:`ConfigError` for a budget that is no fraction of the dense network or a task that
    cannot be trained or saved, and what searches and trainings raise.
    """
    recipe = config.finetune
    if recipe is None or not recipe.epochs or task.train is None or task.config is None:
        raise ConfigError("stages need finetuning (--epochs) and a network that can be rebuilt")
    bounds = [_bounds(config, stage, recipe.stages) for stage in range(1, recipe.stages + 1)]
    folder = RunFolder(path)
    if not folder.config.is_file():
        folder = RunFolder.create(path, prepared(config, task), inputs_of(task))
    say = training.on_stage or (lambda _: None)
    network, whole = task.model, None
    for number, limits in enumerate(bounds, 1):
        here = RunFolder(folder.path / "stages" / str(number))
        last = number == len(bounds)
        if here.finetuned.is_file() and not last:
            network, card = load_model(here.finetuned, allow_factory=True)
            network.to(next(task.model.parameters()).device)
            whole = card.plan
            continue
        wanted = ", ".join(f"{name} {bound:.0%}" for name, bound in limits.items())
        say(f"stage {number} of {len(bounds)}: {wanted} of the dense network's")
        stage_task = replace(task, model=network, config=None)
        stage_config = _stage_config(config, limits, whole)
        found = _searched(stage_task, here, stage_config, searching)
        if found is None:
            return None
        applied = apply_plan(found, stage_task)
        whole = composed(whole, found, task)
        if last:
            whole.save(folder.plan)
            resume = unfinished(folder.finetuning) is not None
            return recover(
                task,
                whole,
                _last_recipe(recipe),
                folder,
                cut=applied,
                resume=resume,
                **vars(training),
            )
        network = _trained(stage_task, applied.model, here, _stage_recipe(recipe), training)
        save_model(network, whole, here.finetuned)
    raise AssertionError


def composed(first: Plan | None, then: Plan, task: Task) -> Plan:
    """One plan of the dense network for a plan ``then`` of the network that ``first`` has left.

    Raises :class:`PlanError` where they do not belong together.
    """
    if first is None:
        return then.model_copy(update={"model": task.config})
    units = {unit.name: unit for unit in first.units}
    for unit in then.units:
        before = units.get(unit.name)
        if before is None:
            units[unit.name] = unit
            continue
        if len(before.kept) != unit.width:
            raise PlanError(
                f"unit {unit.name!r}: a stage left {len(before.kept)} groups, the next one found "
                f"{unit.width}"
            )
        # The groups that are left lie in the order of the dense network.
        left = sorted(before.kept)
        kept = tuple(left[group] for group in unit.kept)
        units[unit.name] = UnitPlan(name=unit.name, width=before.width, kept=kept)
    return first.model_copy(
        update={
            "units": tuple(units.values()),
            "sizes": {**first.sizes, **then.sizes},
            "costs": then.costs,
            "quality": then.quality,
        }
    )


def _bounds(config: SearchConfig, stage: int, stages: int) -> dict[str, float]:
    """Fractions of the dense network's costs after that stage."""
    limits = {}
    for name, bound in config.budget.items():
        if isinstance(bound, tuple) or bound > 1:
            raise ConfigError(
                f"stages need a budget as one fraction of the network, such as flops=0.5 (got "
                f"{name} {bound})"
            )
        limits[name] = float(bound) ** (stage / stages)
    if not limits or config.min_accuracy is not None:
        raise ConfigError("stages need a budget, such as --budget flops=0.5")
    return limits


def _stage_config(
    config: SearchConfig, limits: Mapping[str, float], before: Plan | None
) -> SearchConfig:
    """Bounds relative to the network that the stage before has left, and a share of episodes."""
    stages = config.finetune.stages if config.finetune is not None else 1
    kept = before.kept if before is not None else {}
    budget = {name: min(bound / kept.get(name, 1.0), 1.0) for name, bound in limits.items()}
    return config.model_copy(
        update={
            "model": None,
            "data": None,
            "finetune": None,
            "budget": budget,
            "episodes": max(1, config.episodes // stages),
        }
    )


def _searched(task: Task, folder: RunFolder, config: SearchConfig, tell: Listener) -> Plan | None:
    """The plan of a stage; None where Ctrl-C ended its search."""
    begun = folder.config.is_file()
    given = {"resume": True} if begun else {"config": config}
    result = search(task, run=folder.path, **given, **vars(tell))
    write_report(folder.path)
    return None if result.interrupted else result.plan


def _trained(
    task: Task,
    network: nn.Module,
    folder: RunFolder,
    recipe: FinetuneConfig,
    training: OnTraining,
) -> nn.Module:
    assert task.train is not None
    task.train(
        network,
        recipe,
        folder=folder.finetuning,
        resume=unfinished(folder.finetuning) is not None,
        on_epoch=training.on_epoch,
        on_step=training.on_step,
        on_note=training.on_note,
    )
    return network


def _stage_recipe(recipe: FinetuneConfig) -> FinetuneConfig:
    epochs = max(1, round(_FIRST_STAGES_SHARE * recipe.epochs / max(recipe.stages - 1, 1)))
    decay = _GENTLER_DECAY * recipe.weight_decay
    return recipe.model_copy(update={"epochs": epochs, "stages": 1, "weight_decay": decay})


def _last_recipe(recipe: FinetuneConfig) -> FinetuneConfig:
    before = (recipe.stages - 1) * _stage_recipe(recipe).epochs
    return recipe.model_copy(update={"epochs": max(1, recipe.epochs - before), "stages": 1})
