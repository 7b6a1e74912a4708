"""Build the environment of a task, or one from names alone (what Gymnasium's registry calls)."""

from __future__ import annotations

from collections.abc import Callable

from amc.budget import parse_budget, resolve
from amc.config import Bounds, DataConfig, EvaluateConfig, ModelConfig, SearchConfig
from amc.cost import CostTable
from amc.envs.pruning import PruningEnv
from amc.envs.reward import make_reward
from amc.find import find_units
from amc.task import PlanEvaluator, Task, image_task


def make_env(
    task: Task, config: SearchConfig, on_unit: Callable[[int, int], None] | None = None
) -> PruningEnv:
    """Trace and verify ``task.model``, and put its units, costs and quality into an environment.

    ``on_unit(done, total)`` reports progress. Raises :class:`UnitError` where nothing can be
    pruned, :class:`BudgetError` for a budget out of reach, and :class:`ConfigError` for an
    importance that looks at images which the task does not have.
    """
    units = find_units(
        task.model,
        task.example_inputs,
        importance=config.importance or task.importance,
        calibration=task.calibration,
        loss=task.loss,
        seed=config.seed,
        on_unit=on_unit,
        **{name: getattr(config, name) for name in Bounds.model_fields},
    )
    cost = CostTable(units)
    return PruningEnv(
        units,
        cost,
        resolve(config.budget, units, cost),
        PlanEvaluator(task, units),
        make_reward(config.reward),
        [unit.scores for unit in units],
        config.constraint,
    )


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
    return make_env(task, config)
