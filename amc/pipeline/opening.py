"""What a run, or a plan's file, holds: its task, one of its plans, its network."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from amc.config import FinetuneConfig
from amc.cost.budget import parse_budget
from amc.cost.quantities import limits_name
from amc.errors import PlanError, RunError
from amc.models.factory import build_model, check_allowed
from amc.models.weights import weights_sha256
from amc.modules.completing import initialise_lazy_
from amc.pruning.apply import cut
from amc.pruning.checkpoint import save_model
from amc.pruning.plan import Plan
from amc.records.pareto_front import Front
from amc.records.run_folder import RunFolder
from amc.task import Task
from amc.tracing.inputs import example_of
from amc.vision.task import image_task


def open_task(
    folder: RunFolder,
    *,
    device: str | None = None,
    allow_factory: bool = False,
    progress: bool = True,
) -> Task:
    """The task that a run was made for, rebuilt from its configuration.

    ``device`` takes the place of the one that it names. Raises :class:`RunError` where the run was
    given objects that no file describes.
    """
    config = folder.load_config()
    if config.model is None or config.data is None:
        raise RunError(
            f"{folder.path} was made from Python objects; apply its plan, or resume it, from Python"
        )
    check_allowed(config.model, folder.config, allow_factory)
    check_allowed(config.data.spec, folder.config, allow_factory)
    return image_task(
        config.model,
        config.data,
        config.evaluate,
        seed=config.seed,
        device=device or config.device,
        progress=progress,
        recorded=True,
    )


def check_recipe(recipe: FinetuneConfig, source: Path, allow_factory: bool) -> None:
    """Refuse to run a Python file only because a recipe in ``source`` names it.

    Raises :class:`ModelError` for an optimizer or a teacher of a user's file.
    """
    for named in (recipe.optimizer, (recipe.teacher or "").partition("@")[0]):
        check_allowed(named, source, allow_factory)


def choose(folder: RunFolder, budget: Sequence[str]) -> RunFolder:
    """The folder, inside a run's, of the run's best plan within ``budget``; made, if need be.

    Without a budget it is the run's own. Raises :class:`PlanError` where the run has no front,
    :class:`BudgetError` where none of its plans is within the budget, and :class:`ConfigError` for
    a budget that does not parse.
    """
    if not budget:
        return folder
    plan = Front.load(folder.front).within(parse_budget(budget))
    chosen = chosen_folder(folder, budget)
    chosen.path.mkdir(exist_ok=True)
    shutil.copy(folder.config, chosen.config)
    plan.save(chosen.plan)
    return chosen


def chosen_folder(folder: RunFolder, budget: Sequence[str]) -> RunFolder:
    """Where :func:`choose` puts the plan."""
    return RunFolder(folder.path / limits_name(parse_budget(budget))) if budget else folder


def apply_file(
    plan_file: Path, target: Path, *, weights: str | None = None, allow_factory: bool = False
) -> float:
    """Slice the network that a bare ``plan.json`` names, verify it, and save it as ``target``.

    ``weights`` replaces the file that the plan names. Without images the network is neither
    recalibrated nor mended by least squares. Returns the worst relative error against the masked
    twin. Raises :class:`PlanError` where the plan does not say how to build its network, or
    was made for other weights.
    """
    plan = Plan.load(plan_file)
    if plan.model is None or plan.input_shape is None:
        raise PlanError(f"{plan_file} names no factory or input; apply it from Python")
    config = plan.model.model_copy(update={"weights": weights or plan.model.weights})
    check_allowed(config, plan_file, allow_factory)
    model = build_model(config)
    example = example_of(model, plan.input_shape)
    initialise_lazy_(model, lambda: model(example))
    if weights_sha256(model) != plan.weights_sha256:
        raise PlanError(
            f"{plan_file} was made for other weights than {config.weights or 'a fresh network'}; "
            f"give the right file (--weights), or copy its widths: amc replay {plan_file} MODEL"
        )
    small, _, error = cut(plan, model, example)
    save_model(small, plan, target)
    return error
