"""After the search: slice the best plan, verify, save, finetune, and say what came of it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from torch import nn

from amc.config import FinetuneConfig, LatencyConfig
from amc.errors import ConfigError, ModelError, PlanError, RunError
from amc.latency.backends import load_all, make_backend
from amc.latency.measurement import judge, measure
from amc.models.preparation import Preparation
from amc.modules.copying import copy_model
from amc.pruning.apply import Applied, apply_plan
from amc.pruning.checkpoint import read_card, save_model
from amc.pruning.plan import Plan
from amc.records.episode import read_log
from amc.records.results import Results, Row
from amc.records.run_folder import RunFolder
from amc.reporting.report import write_report
from amc.reporting.tensorboard.training import TrainingMonitor
from amc.task import Epoch, Step, Task, Train
from amc.tracing.inputs import Inputs
from amc.training.finetune import unfinished

Told = TypeVar("Told")


def recover(
    task: Task,
    plan: Plan,
    recipe: FinetuneConfig,
    folder: RunFolder,
    *,
    cut: Applied | None = None,
    resume: bool = False,
    on_stage: Callable[[str], None] | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
    on_step: Callable[[Step], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Results:
    """Apply ``plan``, finetune by ``recipe``, and write network, results and report as they come.

    What is on disk is sound at any moment: the sliced network is saved before its training starts,
    and an earlier finetuned network, with its results, stays until a new one has been trained.
    ``cut`` is the network that ``plan`` leaves where it was cut, and trained, in stages: its widths
    are proven on the dense network all the same. Checkpoints of the training are in
    ``folder.finetuning``; with ``resume`` it goes on from there.

    Raises what :func:`amc.pruning.apply.apply_plan` and :func:`amc.training.finetune.finetune`
    raise.
    """
    say = on_stage or (lambda _: None)
    say("slicing and verifying")
    applied = apply_plan(plan, task)
    if cut is not None:
        _check_same_sizes(applied.model, cut.model)
        applied = replace(cut, verified_error=max(cut.verified_error, applied.verified_error))
    seen = Preparation.of(task.data) if task.data is not None else None
    if plan.model is not None:
        save_model(applied.model, plan, folder.pruned, preparation=seen)
    notes = _notes(applied)
    if on_note is not None:
        for note in notes:
            on_note(note)
    say("testing dense and pruned")
    networks = {"dense": task.model, "pruned": applied.model}
    results = Results(
        **_measured(networks, plan, task, folder),
        verified_error=applied.verified_error,
        images=dict(task.images),
        notes=notes,
    )
    if not folder.finetuned.exists():
        results.save(folder.results)
    if recipe.epochs:
        if task.train is None:
            raise ConfigError("this task has no training; give Task.train, or finetune 0 epochs")
        say("finetuning")
        tuned = networks["finetuned"] = copy_model(applied.model)
        told = _trained(tuned, task.train, recipe, folder, resume, on_epoch, on_step, on_note)
        if plan.model is not None:
            epochs = len(told["epochs"])
            save_model(tuned, plan, folder.finetuned, finetuned_epochs=epochs, preparation=seen)
        measured = _measured(networks, plan, task, folder, results)
        told["notes"] = (*notes, *told["notes"])
        results = results.model_copy(update={**measured, **told})
        results.save(folder.results)
        shutil.rmtree(folder.finetuning, ignore_errors=True)  # it has served
    write_report(folder.path)
    return results


def _notes(applied: Applied) -> tuple[str, ...]:
    if not applied.stale:
        return ()
    names = ", ".join(applied.stale[:5]) + (", ..." if len(applied.stale) > 5 else "")
    return (f"these attributes still say the dense sizes, for all that is known: {names}",)


def _trained(
    network: nn.Module,
    train: Train,
    recipe: FinetuneConfig,
    folder: RunFolder,
    resume: bool,
    on_epoch: Callable[[Epoch], None] | None,
    on_step: Callable[[Step], None] | None,
    on_note: Callable[[str], None] | None,
) -> dict[str, Any]:
    """Train ``network`` in place, watched by TensorBoard: what :class:`Results` says of it."""
    notes: list[str] = []
    left = unfinished(folder.finetuning) if resume else None
    monitor = TrainingMonitor(
        folder.tensorboard, offset=_episodes(folder), resumed_steps=left.steps if left else 0
    )
    with contextlib.closing(monitor):
        trained = train(
            network,
            recipe,
            folder=folder.finetuning,
            resume=left is not None,
            on_epoch=_both(monitor.epoch, on_epoch),
            on_step=_both(monitor.step, on_step),
            on_note=_both(notes.append, on_note),
        )
    return {
        "epochs": trained.epochs,
        "recipe": trained.recipe,
        "kept": trained.kept,
        "accuracies": dict(trained.accuracies),
        "notes": tuple(notes),
    }


def follow(
    task: Task, plan: Plan, recipe: FinetuneConfig, folder: RunFolder, *, resume: bool = False
) -> None:
    """Train along with a process that runs :func:`recover` on ``folder``; nothing is written."""
    if recipe.epochs and task.train is not None:
        tuned = apply_plan(plan, task).model
        task.train(tuned, recipe, folder=folder.finetuning, resume=resume)


def recovered(folder: RunFolder, plan: Plan, recipe: FinetuneConfig) -> Results | None:
    """The results of ``plan`` where :func:`recover` has nothing left to do; otherwise None.

    A network that was finetuned by another recipe since counts as well.
    """
    name, path = ("finetuned", folder.finetuned) if recipe.epochs else ("pruned", folder.pruned)
    try:
        results, card = Results.load(folder.results), read_card(path)
    except (ModelError, RunError):
        return None
    row = results.row(name)
    measured = row is not None and row.costs == plan.costs
    return results if measured and card.plan == plan else None


def _check_same_sizes(one: nn.Module, other: nn.Module) -> None:
    sizes = [{k: v.shape for k, v in model.state_dict().items()} for model in (one, other)]
    if sizes[0] != sizes[1]:
        raise PlanError("the plan of all stages leaves other sizes than the stages did")


def _both(
    one: Callable[[Told], None], other: Callable[[Told], None] | None
) -> Callable[[Told], None]:
    """Tells both."""

    def tell(what: Told) -> None:
        one(what)
        if other is not None:
            other(what)

    return tell


def _episodes(folder: RunFolder) -> int:
    """How many the search had: its curves end there."""
    return len(read_log(folder.episodes).episodes) if folder.episodes.exists() else 0


def _tested(task: Task, model: nn.Module) -> float | None:
    return task.test(model) if task.test else None


def _search_val(task: Task, model: nn.Module) -> float | None:
    """Of the network as it is, where the task can tell; otherwise as plans are scored."""
    if task.validate is not None:
        return task.validate(model)
    # A copy: the evaluation recalibrates BatchNorm in place.
    return task.evaluate(copy_model(model)).get("accuracy")


def _measured(
    networks: dict[str, nn.Module],
    plan: Plan,
    task: Task,
    folder: RunFolder,
    before: Results | None = None,
) -> dict[str, Any]:
    """The fields of :class:`Results` that say what the networks are, and how that was measured.

    Accuracies that ``before`` has are not measured again. Latencies are measured in turns, so that
    they compare: where the search bounded latency, otherwise in the runtime that a user would most
    likely deploy.
    """
    models, device = list(networks.values()), str(next(task.model.parameters()).device)
    config = folder.load_config() if folder.config.is_file() else None
    aim = config.latency if config is not None and config.timed else LatencyConfig(device=device)
    inputs = Inputs.of(task.example_inputs, task.model).with_batch(aim.batch)
    if config is not None and config.timed:
        runtime = make_backend(aim.backend, aim.threads, aim.device)
        forwards = [runtime.load(model, inputs) for model in models]
    else:
        runtime, forwards = load_all(models, inputs, device=device)
    latencies = measure(forwards, time=runtime.time)
    clock, noise = judge(latencies, runtime.device)
    rows = []
    for (name, model), latency in zip(networks.items(), latencies, strict=True):
        known = before.row(name) if before is not None else None
        row = Row(
            name=name,
            test_accuracy=known.test_accuracy if known else _tested(task, model),
            search_val_accuracy=known.search_val_accuracy if known else _search_val(task, model),
            costs=plan.dense_costs if name == "dense" else plan.costs,
            latency_ms=latency.median_ms,
            latency_spread_ms=latency.spread_ms,
            cpu_ms=latency.cpu_ms,
        )
        rows.append(row)
    return {
        "rows": tuple(rows),
        "device": device,
        "runtime": runtime.description,
        "batch": aim.batch,
        "clock": clock,
        "noise": noise,
    }
