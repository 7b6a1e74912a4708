"""Pruning in stages: plans composed by hand, one story in the run folder, resumed bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from amc.config import EvaluateConfig, FinetuneConfig, ModelConfig, SearchConfig
from amc.errors import ConfigError, PlanError
from amc.models.factory import build_model
from amc.pipeline.assignment import Listener
from amc.pipeline.demo import DEMO_DATA, train_dense
from amc.pipeline.search import make_config
from amc.pipeline.stages import OnTraining, composed, prune_in_stages
from amc.pruning.apply import cut
from amc.pruning.checkpoint import load_model
from amc.pruning.plan import Plan, UnitPlan
from amc.task import Step, Task
from amc.vision.task import image_task

EVALUATE = EvaluateConfig(images=100, calibration_images=64)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return train_dense(tmp_path_factory.mktemp("dense"), 0)


def task_of(dense: ModelConfig) -> Task:
    return image_task(dense, DEMO_DATA, EVALUATE, progress=False)


def config_of(dense: ModelConfig, budget: str = "flops=0.3", **settings: object) -> SearchConfig:
    recipe = FinetuneConfig.parse(
        {"epochs": 4, "lr": 0.02, "stages": 3, "checkpoint_minutes": 1e-9, **settings}
    )
    return make_config(
        budget,
        model=dense,
        data=DEMO_DATA,
        evaluate=EVALUATE,
        episodes=6,
        agent="random",
        finetune=recipe,
    )


def quiet() -> Listener:
    return Listener(on_note=lambda _: None)


class _StopError(Exception):
    pass


def test_the_stages_make_one_plan_and_are_resumed(dense: ModelConfig, tmp_path: Path) -> None:
    task, config = task_of(dense), config_of(dense)
    results = prune_in_stages(task, tmp_path / "whole", config, quiet(), OnTraining())
    assert results is not None
    assert [row.name for row in results.rows] == ["dense", "pruned", "finetuned"]
    plan = Plan.load(tmp_path / "whole" / "plan.json")
    assert plan.kept["macs"] <= 0.3
    kept = []
    for stage in (1, 2, 3):
        found = Plan.load(tmp_path / "whole" / "stages" / str(stage) / "plan.json")
        kept.append(found.costs["macs"] / plan.dense_costs["macs"])
    assert kept == sorted(kept, reverse=True)
    assert all(k <= 0.3 ** (n / 3) + 1e-9 for n, k in enumerate(kept, 1))
    network, card = load_model(tmp_path / "whole" / "model.safetensors")
    assert card.plan == plan
    twin, _, error = cut(plan, build_model(dense), task.example_inputs)
    assert error < 1e-4
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (network, twin)]
    assert shapes[0] == shapes[1]

    calls = 0

    def stop(_: Step) -> None:
        nonlocal calls
        calls += 1
        if calls == 40:  # in the training of the first stage, then of the second, ...
            calls = 0
            raise _StopError

    again, ended = tmp_path / "again", None
    for _ in range(20):
        try:
            ended = prune_in_stages(
                task_of(dense), again, config, quiet(), OnTraining(on_step=stop)
            )
            break
        except _StopError:
            pass
    assert ended is not None
    resumed, _ = load_model(again / "model.safetensors")
    assert all(torch.equal(a, network.state_dict()[k]) for k, a in resumed.state_dict().items())


def test_plans_are_composed(dense: ModelConfig) -> None:
    task = task_of(dense)

    def plan(macs: int, **kept: tuple[int, tuple[int, ...]]) -> Plan:
        units = tuple(UnitPlan(name=n, width=w, kept=k) for n, (w, k) in kept.items())
        return Plan(
            weights_sha256="0",
            units=units,
            sizes={"a.out": macs},
            costs={"macs": macs, "params": macs},
            dense_costs={"macs": 100, "params": 100},
        )

    first = plan(60, a=(6, (5, 0, 3)), b=(4, (1, 2)))
    then = plan(30, a=(3, (2, 0)), c=(2, (1,)))
    whole = composed(composed(None, first, task), then, task)
    # What is left of a is 0, 3, 5 in the order of the network; of that the third and the first.
    assert {unit.name: (unit.width, unit.kept) for unit in whole.units} == {
        "a": (6, (5, 0)),
        "b": (4, (1, 2)),
        "c": (2, (1,)),
    }
    assert (whole.costs["macs"], whole.dense_costs["macs"]) == (30, 100)
    assert whole.model == task.config
    with pytest.raises(PlanError, match="left 3 groups, the next one found 4"):
        composed(first, plan(30, a=(4, (0,))), task)


@pytest.mark.parametrize("budget", ["flops=0.3:0.8", "params=20k"])
def test_a_budget_is_one_fraction(dense: ModelConfig, tmp_path: Path, budget: str) -> None:
    with pytest.raises(ConfigError, match="one fraction"):
        prune_in_stages(
            task_of(dense), tmp_path / "run", config_of(dense, budget), quiet(), OnTraining()
        )
    assert not (tmp_path / "run").exists()
