"""Settings: refused when wrong, unchanged by a round trip through their file."""

from __future__ import annotations

import re
import tomllib

import pytest
from pydantic import ValidationError

from amc.agents.ddpg.settings import DDPGConfig
from amc.agents.expert.settings import ExpertConfig
from amc.bounds import parse_multiples
from amc.config import DataConfig, EvaluateConfig, FinetuneConfig, ModelConfig, SearchConfig
from amc.errors import ConfigError
from amc.presets import PRESETS
from amc.utils.settings import Settings, load_toml, save_toml

FULL = SearchConfig(
    model=ModelConfig(spec="amc:resnet20", arguments={"shortcut": "B"}, weights="w.pth"),
    data=DataConfig(spec="imagefolder:data", mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)),
    budget={"macs": 0.5, "params": (200_000, 300_000)},
    min_accuracy=0.9,
    minimise="params",
    episodes=7,
    agent="ddpg",
    preset="amc-paper",
    exclude=("conv1", "layer3.*"),
    round_to={"all": 8, "heads": 1},
    evaluate=EvaluateConfig(images=10, bf16=False),
)


@pytest.mark.parametrize(
    "config", [FULL, SearchConfig(), FinetuneConfig(epochs=2)], ids=["full", "empty", "finetune"]
)
def test_a_file_gives_back_what_was_saved(tmp_path, config):
    path = tmp_path / "config.toml"
    save_toml(config, path)
    found = type(config).parse(load_toml(path))
    assert found == config
    assert found.model_dump_json() == config.model_dump_json()  # 1 is not 1.0


def test_fractions_and_counts_stay_apart(tmp_path):
    path = tmp_path / "config.toml"
    save_toml(SearchConfig(budget={"macs": 1.0, "params": 1}), path)
    budget = SearchConfig.parse(load_toml(path)).budget
    assert [type(limit) for limit in budget.values()] == [float, int]
    save_toml(SearchConfig(budget={"macs": (0.3, 1.0), "params": (1, 5)}), path)
    assert SearchConfig.parse(load_toml(path)).budget == {"macs": (0.3, 1.0), "params": (1, 5)}


@pytest.mark.parametrize(
    ("values", "ranged", "signal", "costs"),
    [
        ({"budget": {"macs": 0.5}}, False, "kl", ("macs",)),
        ({"budget": {"params": (0.2, 0.5), "macs": 0.5}}, True, "kl", ("params", "macs")),
        ({"budget": {"macs": 10**6}, "reward": "accuracy"}, False, "accuracy", ("macs",)),
        ({"reward": "amc-params"}, True, "accuracy", ("params",)),
        ({"min_accuracy": 0.9}, True, "accuracy", ("macs",)),
        (
            {"min_accuracy": 0.9, "minimise": "params", "budget": {"macs": 0.5}},
            True,
            "accuracy",
            ("params",),
        ),
    ],
)
def test_what_tells_plans_of_a_search_apart(values, ranged, signal, costs):
    config = SearchConfig.parse(values)
    assert (config.ranged, config.signal, config.costs) == (ranged, signal, costs)


def test_a_bare_multiple_stands_for_all_kinds():
    assert SearchConfig.parse({"round_to": 8}).round_to == {"all": 8}
    assert SearchConfig.parse({}).round_to == {"all": 1}
    assert parse_multiples(["8", "conv=16"]) == {"all": 8, "conv": 16}
    assert parse_multiples(["heads=1"]) == {"heads": 1}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["conv"], "round_to 'conv': write a number, or KIND=NUMBER (conv=8)"),
        (["8.5"], "round_to '8.5': write a number"),
        (["-8"], "round_to '-8': write a number"),
        (["conv=8,linear=8"], "write a number"),
        (["8", "all=4"], "round_to 'all=4': all has two multiples; give one"),
        (["conv=8", "conv=8"], "conv has two multiples"),
    ],
)
def test_multiples_that_do_not_parse(texts, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        SearchConfig.parse({"round_to": parse_multiples(texts)})


def test_extra_tables_are_saved_beside_the_settings(tmp_path):
    path = tmp_path / "config.toml"
    save_toml(FinetuneConfig(), path, versions={"torch": "2.9"})
    assert tomllib.loads(path.read_text())["versions"] == {"torch": "2.9"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"episods": 5}, r"episods: Extra inputs are not permitted \(got 5\)"),
        ({"episodes": -1}, r"episodes: .*greater than or equal to 0 \(got -1\)"),
        (
            {"episodes": 0},
            r"^run.toml: a search without episodes needs a policy or a plan to replay$",
        ),
        ({"episodes": "many"}, r"episodes: .*valid integer.*\(got 'many'\)"),
        (
            {"agent": "sac"},
            r"agent: .*'sac' is unknown; choose from .* ddpg, uniform, .* gp, or .*\(got 'sac'\)",
        ),
        ({"min_keep": 1.5}, r"min_keep: .*less than or equal to 1"),
        ({"model": {"spec": "a", "args": {}}}, r"model.args: Extra inputs"),
        ({"model": {}}, r"^run.toml: model.spec: Field required$"),
        ({"evaluate": {"images": 0}}, r"evaluate.images: .*\(got 0\)"),
        ({"budget": {"macs": "half"}}, r"budget.macs"),
        ({"seed": None}, r"seed: .*\(got None\)"),
        ({"seed": "x", "round_to": 0}, r"round_to.all: .*\(got 0\); seed: "),
        ({"round_to": {"conv": 0}}, r"round_to.conv: .*\(got 0\)"),
        (
            {"round_to": {"depthwise": 8}},
            r"no unit is of kind 'depthwise'; write all, conv, linear",
        ),
        ({"min_width": 0}, r"min_width: .*\(got 0\)"),
    ],
)
def test_faults_are_named_with_their_place_and_value(values, message):
    with pytest.raises(ConfigError, match=message):
        SearchConfig.parse(values, "run.toml")


@pytest.mark.parametrize("field", ["gradient_steps", "tau", "discount", "noise_std", "actor_lr"])
def test_agent_settings_have_bounds(field):
    with pytest.raises(ConfigError, match=field):
        SearchConfig.parse({"agent_settings": {"ddpg": {field: -2}}})


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        FULL.episodes = 3  # type: ignore[misc]
    for kind in Settings.__subclasses__():
        assert kind.model_config["frozen"]
        assert kind.model_config["extra"] == "forbid"


@pytest.mark.parametrize("content", [b"a = ", b"a = 1\na = 2", b"\xff\xfe"])
def test_files_that_are_not_toml(tmp_path, content):
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.toml: not valid TOML: "):
        load_toml(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        load_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_toml(tmp_path)


def test_the_papers_settings():
    """He et al., AMC, ECCV 2018, section 4, and the authors' code."""
    config = SearchConfig(agent="ddpg", preset="amc-paper")
    paper = config.agent_settings["ddpg"]
    assert isinstance(paper, DDPGConfig)
    assert (paper.hidden, paper.actor_lr, paper.critic_lr) == ((300, 300), 1e-4, 1e-3)
    assert (paper.tau, paper.discount, paper.batch_size) == (0.01, 1.0, 64)
    assert (paper.noise_std, paper.noise_decay, paper.warmup_episodes) == (0.5, 0.95, 100)
    assert (paper.bootstrap, paper.baseline_momentum) == (True, 0.5)
    assert SearchConfig().agent_settings == {"expert": ExpertConfig()}
    assert SearchConfig(preset="amc-paper").agent_settings == {"expert": ExpertConfig()}
    assert PRESETS["amc-paper"].episodes == 400


def test_hyperparameters_are_flat_and_of_the_kinds_that_a_table_takes():
    table = FULL.hyperparameters()
    assert all(isinstance(value, bool | int | float | str) for value in table.values())
    assert table["budget/macs"] == 0.5
    assert table["agent/hidden"] == "(300, 300)"
    assert table["evaluate/bf16"] is False
    assert {f"agent/{name}" for name in DDPGConfig.model_fields} <= table.keys()
