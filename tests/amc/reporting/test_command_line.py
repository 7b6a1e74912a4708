"""The command that a report prints, read back by the command line's own parser."""

from __future__ import annotations

import shlex
from typing import Any

from amc.agents.expert.settings import ExpertConfig
from amc.bounds import parse_multiples
from amc.cli.app import load
from amc.config import DataConfig, EvaluateConfig, FinetuneConfig, ModelConfig, SearchConfig
from amc.reporting.command_line import command_line, without_option


def parse(command: str | None) -> dict[str, Any]:
    """Values of every option of ``amc search``."""
    assert command is not None
    amc, search, *words = shlex.split(command.replace("\\\n", ""))  # as a shell joins lines
    assert (amc, search) == ("amc", "search")
    values: dict[str, Any] = load("search").make_context("search", words).params
    return values


def test_command_says_every_setting_that_an_option_has() -> None:
    config = SearchConfig(
        model=ModelConfig(spec="my nets/net.py:make", arguments={"depth": 20}, weights="w x.pth"),
        data=DataConfig(
            spec="imagefolder:data",
            search_val=0.2,
            image_size=64,
            mean=(0.5, 0.25, 1 / 3),
            std=(1.0, 1.0, 1 / 255),
            download=True,
        ),
        budget={"macs": (0.3, 0.8), "params": 1_200_000},
        episodes=77,
        seed=3,
        agent="ddpg",
        preset="amc-paper",
        constraint="sequential",
        reward="accuracy",
        importance="l1",
        min_keep=0.2,
        min_width=2,
        round_to={"all": 8, "heads": 1},
        exclude=("head.*", "stem"),
        gentle_ends=True,
        evaluate=EvaluateConfig(images=500, calibration_images=100, bf16=False, reconstruct=True),
        device="cuda",
        threads=2,
    )
    recipe = FinetuneConfig(
        epochs=7,
        lr=0.02,
        batch_size=64,
        precision="fp32",
        freeze=("stem", "layer1.*"),
        mix=(0.5, 0.25),
        augment=("crop", "flip"),
        distill=("kd", "dkd"),
        distill_temperature=(10.0, 2.0),
        stages=3,
        compile=True,
        seed=3,
    )
    values = parse(command_line(config, recipe))
    expected = {
        "model": "my nets/net.py:make",
        "model_arg": ["depth=20"],
        "weights": "w x.pth",
        "data": "imagefolder:data",
        "search_val": "0.2",
        "image_size": 64,
        "mean": f"0.5,0.25,{1 / 3}",
        "std": f"1,1,{1 / 255}",
        "download": True,
        "budget": ["macs=0.3:0.8", "params=1200000"],
        "episodes": 77,
        "seed": 3,
        "agent": "ddpg",
        "preset": "amc-paper",
        "constraint": "sequential",
        "reward": "accuracy",
        "importance": "l1",
        "min_keep": 0.2,
        "min_width": 2,
        "round_to": ["all=8", "heads=1"],
        "exclude": ["head.*", "stem"],
        "gentle_ends": True,
        "images": 500,
        "calibration_images": 100,
        "bf16": False,
        "reconstruct": True,
        "device": "cuda",
        "threads": 2,
        "epochs": 7,
        "lr": 0.02,
        "batch_size": 64,
        "precision": "fp32",
        "freeze": ["stem", "layer1.*"],
        "mix": "0.5,0.25",
        "augment": "crop,flip",
        "distill": "kd,dkd",
        "distill_temperature": "10,2",
        "stages": 3,
        "compile": True,
    }
    assert {key: values[key] for key in expected} == expected
    assert parse_multiples(values["round_to"]) == config.round_to
    assert not without_option(config, recipe)


def test_defaults_are_left_out_and_no_budget_is_said() -> None:
    config = SearchConfig(
        model=ModelConfig(spec="amc:resnet20"), data=DataConfig(), reward="amc-flops"
    )
    command = command_line(config, FinetuneConfig(epochs=0))
    assert command is not None
    assert command.split(" \\\n  ") == [
        "amc search amc:resnet20",
        "--data digits",
        "--no-budget",
        "--episodes 150",
        "--seed 0",
        "--reward amc-flops",
        "--epochs 0",
    ]


def test_what_was_chosen_in_a_finetuning_is_said() -> None:
    """Of a recipe with nothing left open: what its defaults leave open, and nothing else."""
    config = SearchConfig(model=ModelConfig(spec="amc:resnet20"), data=DataConfig(), seed=3)
    recipe = FinetuneConfig(epochs=9, lr=0.0125, ema=0.0, batch_size=128, augment=(), seed=3)
    command = command_line(config, recipe)
    assert command is not None
    after = command.split(" \\\n  ")
    assert after[after.index("--epochs 9") + 1 :] == [
        "--batch-size 128",
        "--lr 0.0125",
        "--ema 0.0",
        "--augment none",
    ]
    assert not without_option(config, recipe)
    recipe = FinetuneConfig(epochs=0, lr=0.5)
    assert "--lr" not in (command_line(config, recipe) or "")


def test_a_floor_needs_no_budget() -> None:
    config = SearchConfig(
        model=ModelConfig(spec="amc:resnet20"),
        data=DataConfig(),
        min_accuracy=0.9,
        minimise="params",
    )
    values = parse(command_line(config, None))
    assert (values["min_accuracy"], values["minimise"]) == (0.9, "params")
    assert values["budget"] == []
    assert not values["no_budget"]


def test_what_no_option_says_is_listed() -> None:
    config = SearchConfig(
        model=ModelConfig(spec="amc:resnet20"),
        data=DataConfig(seed=4),
        agent_settings={"expert": ExpertConfig(optimism=0.5)},
    )
    recipe = FinetuneConfig(check_images=64, seed=5)
    assert without_option(config, recipe) == {
        "data.seed": 4,
        "agent_settings.expert.optimism": 0.5,
        "finetune.check_images": 64,
        "finetune.seed": 5,
    }


def test_a_run_from_python_objects_has_no_command() -> None:
    assert command_line(SearchConfig(), None) is None
