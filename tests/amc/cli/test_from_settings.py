"""Options follow from the fields of the settings; the help pages; ``--config FILE``."""

from __future__ import annotations

import re
import tomllib
from typing import Annotated, Any, get_args

import pytest
from pydantic import Field

from amc.cli.app import load
from amc.cli.config_file import read_config
from amc.cli.from_settings import parameters
from amc.comparison.settings import CompareConfig
from amc.config import DataConfig, ModelConfig, SearchConfig
from amc.errors import ConfigError
from amc.presets import PRESETS
from amc.registry import AGENTS, BACKENDS, IMPORTANCES, REWARDS
from amc.utils.options import Option, OptionOfField, options_of, parameter_name
from amc.utils.settings import load_toml, save_toml
from tests.amc.cli.test_app import run

BASIC = {
    *("--weights", "--data", "--budget", "--min-accuracy", "--episodes", "--epochs", "--run"),
    *("--resume", "--seed", "--device", "--config", "--help", "--help-all"),
}
OPTIONS = [
    (command, found)
    for command, kind in (
        *((name, SearchConfig) for name in ("search", "replay", "inspect", "finetune", "measure")),
        ("compare", CompareConfig),
    )
    for found in options_of(kind, command).values()
]


@pytest.mark.parametrize(
    ("command", "found"), OPTIONS, ids=[f"{command}{found.name}" for command, found in OPTIONS]
)
def test_an_option_is_as_its_field(command: str, found: OptionOfField) -> None:
    own = {("replay", "episodes"): 0, ("replay", "finetune.epochs"): 0}
    (option,) = (x for x in load(command).params if x.name == parameter_name(found))
    assert option.opts == [found.name]
    assert found.help, f"{found.path} has no docstring"
    words = ("ge", "gt", "le", "lt")
    metadata = found.field.metadata
    limits = {word: getattr(x, word) for x in metadata for word in words if hasattr(x, word)}
    assert option.min == limits.get("ge", limits.get("gt"))
    assert option.max == limits.get("le", limits.get("lt"))
    if (command, found.path) in own or found.option.texts or found.option.commas:
        assert option.default in ([], 0) or found.option.commas
        return
    default = found.field.get_default(call_default_factory=True)
    assert option.default == (list(default) if isinstance(default, tuple) else default)


class Changed(SearchConfig):
    workers: Annotated[int, Option("--side-by-side", panel="Speed")] = Field(4, ge=2, le=9)
    """How many at once.

    Not a part of the help."""


def test_a_changed_field_changes_its_option() -> None:
    (found,) = (x for path, x in options_of(Changed).items() if path == "workers")
    (made,) = parameters({"workers": found})
    kind, info = get_args(made.annotation)
    assert (made.name, made.default, kind) == ("side_by_side", 4, int)
    assert (info.min, info.max, info.help) == (2, 9, "How many at once")
    assert info.rich_help_panel == "Speed"


def test_registered_names_are_in_the_help() -> None:
    options = options_of(SearchConfig)
    for path, registry in (
        ("agent", AGENTS),
        ("importance", IMPORTANCES),
        ("reward", REWARDS),
        ("latency.backend", BACKENDS),
    ):
        for name in registry.names():
            assert f"{name} ({registry.entry(name).summary})" in options[path].help


def shown(out: str) -> set[str]:
    """The options that a help page lists."""
    return set(re.findall(r"^│ \*? *(--[\w-]+)", out, re.MULTILINE))


def test_help_is_short_and_help_all_is_complete(monkeypatch, capsys) -> None:
    _, short, _ = run(monkeypatch, capsys, "search", "--help")
    assert shown(short) == BASIC
    assert "MODEL" in short
    for command in ("search", "replay", "compare"):
        _, short, _ = run(monkeypatch, capsys, command, "--help")
        code, out, _ = run(monkeypatch, capsys, command, "--help-all")
        assert code == 0
        every = {option.opts[0] for option in load(command).params if option.opts[0][0] == "-"}
        assert shown(out) == every | {"--help"}
        assert shown(short) < shown(out)
        for panel in ("The plan", "The agent", "The run"):
            assert f"─ {panel} ─" in out


def test_the_lines_of_the_commands_are_their_docstrings_first() -> None:
    from amc.cli.app import COMMANDS

    for name, line in COMMANDS.items():
        assert " ".join(load(name).help.split("\n\n")[0].split()) == line


def made(monkeypatch, capsys, *arguments: str) -> SearchConfig:
    """The settings with which ``amc ARGUMENTS`` would search."""
    found: list[SearchConfig] = []
    monkeypatch.setattr("amc.cli.commands.search.run_search", lambda *a, **_: found.append(a[2]))
    monkeypatch.setattr("amc.cli.commands.replay.run_search", lambda *a, **_: found.append(a[2]))
    monkeypatch.setattr("amc.vision.task.image_task", lambda *_, **__: None)
    code, _, error = run(monkeypatch, capsys, *arguments)
    assert code == 0, error
    return found[0]


FLAGS: dict[str, tuple[tuple[str, ...], Any]] = {
    "plain": ((), {}),
    "range": (("--budget", "flops=0.3:0.8", "--budget", "params=1.2M", "--seed", "3"), {}),
    "floor": (("--min-accuracy", "0.9", "--minimise", "params", "--epochs", "0"), {}),
    "free": (("--no-budget", "--exclude", "a", "--exclude", "b.*", "--round-to", "conv=8"), {}),
    "latency": (("--budget", "latency=0.6", "--backend", "torch", "--latency-batch", "2"), {}),
    "commas": (
        ("--mean", "0.5, 0.25,.125", "--std", "1,1,0.004", "--mix", "0.5,0.25", "--crop-pct", ".9"),
        {},
    ),
    "paper": (("--preset", "amc-paper", "--no-bf16", "--reconstruct", "--lr", "0.01"), {}),
}


@pytest.mark.parametrize("flags", [x for x, _ in FLAGS.values()], ids=list(FLAGS))
def test_a_runs_config_gives_the_same_search(monkeypatch, capsys, tmp_path, flags) -> None:
    monkeypatch.chdir(tmp_path)
    named = ("amc:smallcnn", "--weights", "w.pth", "--model-arg", "width=8", "--image-size", "16")
    config = made(monkeypatch, capsys, "search", *named, *flags)
    save_toml(config, tmp_path / "config.toml", versions={"torch": "2"}, inputs={"a": "b"})
    assert made(monkeypatch, capsys, "search", "--config", "config.toml") == config


def test_several_values_are_one_word_with_commas(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--mean", "0.5, 0.25,.125", "--distill-temperature", "10,2", "--augment", "crop,flip")
    config = made(monkeypatch, capsys, "search", "amc:smallcnn", *words, "--freeze", "conv1")
    assert config.data is not None
    assert (config.data.mean, config.data.std) == ((0.5, 0.25, 0.125), None)
    assert config.finetune is not None
    assert config.finetune.distill_temperature == (10.0, 2.0)
    assert config.finetune.augment == ("crop", "flip")
    assert config.finetune.freeze == ("conv1",)
    code, _, error = run(monkeypatch, capsys, "search", "amc:smallcnn", "--mean", "0.5,x")
    assert code == 1
    assert "mean.1" in error
    assert "(got 'x')" in error


def test_options_override_the_file(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    config = SearchConfig(
        model=ModelConfig(spec="amc:smallcnn", weights="w.pth"),
        data=DataConfig(seed=7),
        budget={"macs": 0.4},
        episodes=20,
        agent="ddpg",
        workers=2,
        gentle_ends=True,
        evaluate={"images": 50, "batch_size": 10},
        agent_settings={"ddpg": {"tau": 0.5}},
    )
    save_toml(config, tmp_path / "c.toml")
    file = ("search", "--config", "c.toml")
    found = made(monkeypatch, capsys, *file, "--images", "60", "--seed", "4", "--no-gentle-ends")
    assert (found.evaluate.images, found.evaluate.batch_size, found.seed) == (60, 10, 4)
    assert (found.agent, found.episodes, found.workers) == ("ddpg", 20, 2)
    assert found.agent_settings["ddpg"].model_dump()["tau"] == 0.5
    assert (found.budget, found.gentle_ends, found.data.seed) == ({"macs": 0.4}, False, 7)
    assert found.finetune is not None
    assert (found.finetune.seed, found.finetune.epochs) == (4, 15)
    found = made(monkeypatch, capsys, *file, "--preset", "amc-paper", "--budget", "params=0.5")
    assert (found.episodes, found.budget) == (PRESETS["amc-paper"].episodes, {"params": 0.5})
    assert found.agent_settings["ddpg"].model_dump()["tau"] != 0.5
    found = made(monkeypatch, capsys, *file, "amc:resnet20")
    assert found.model == ModelConfig(spec="amc:resnet20")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("episods = 5", "c.toml: episods is no setting; did you mean episodes?"),
        ("[evaluate]\nimage = 5", "evaluate.image is no setting; did you mean images?"),
        ("[agent_settings.expert]\nnope = 1", "c.toml: agent_settings.expert: nope"),
        ("workers = 0", "c.toml: workers: Input should be greater than or equal to 1 (got 0)"),
        ("reward = 'beauty'", "cross_entropy"),
        ("workers =", "c.toml: not valid TOML"),
    ],
)
def test_a_wrong_file_is_named(monkeypatch, capsys, tmp_path, text, words) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text(text)
    code, _, error = run(monkeypatch, capsys, "search", "amc:smallcnn", "--config", "c.toml")
    assert code == 1
    assert words in " ".join(error.split())
    assert error.count("error:") == 1


def test_a_file_need_not_say_everything(tmp_path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("align = true\nepisodes = 0\n[model]\nweights = 'w.pth'\n[inputs]\nany = 1\n")
    assert read_config(path, SearchConfig) == {
        "align": True,
        "episodes": 0,
        "model": {"weights": "w.pth"},
    }
    path.write_text("workers = 2")
    assert read_config(path, CompareConfig) == {"search": {"workers": 2}}
    path.write_text("seeds = 2\n[search]\nimportance = 'l1'")
    assert read_config(path, CompareConfig) == tomllib.loads(path.read_text())
    path.write_text("seeds = 0")
    with pytest.raises(ConfigError, match=r"c.toml: seeds: .* \(got 0\)"):
        read_config(path, CompareConfig)
    with pytest.raises(ConfigError, match=r"absent\.toml: no such file"):
        read_config(tmp_path / "absent.toml", SearchConfig)


def test_compare_takes_a_file(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.toml").write_text(
        "agents = ['uniform']\nevaluations = [2]\n[search.model]\nspec = 'amc:smallcnn'\n"
        "[search.evaluate]\nimages = 40\ncalibration_images = 32\n[search.budget]\nmacs = 0.4\n"
    )
    code, _, error = run(
        monkeypatch, capsys, "compare", "--config", "c.toml", "--jobs", "1", "--run", "out"
    )
    assert code == 0, error
    saved = load_toml(tmp_path / "out" / "config.toml")
    assert (saved["agents"], saved["search"]["budget"]) == (["uniform"], {"macs": 0.4})
    assert saved["search"]["evaluate"]["images"] == 40


def test_resume_refuses_a_file(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ("search", "--resume", "r", "--config", "c.toml", "--no-bf16", "--episodes", "9")
    code, _, error = run(monkeypatch, capsys, *arguments)
    assert code == 1
    refused = error.split("--resume with ")[1].split(":")[0]
    assert set(refused.split(", ")) == {"--config", "--bf16"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('[model]\nspec = "net.py:make"\n', "name it as MODEL: net.py:make"),
        ('agent = "mine.py:Mine"\n', "write --agent mine.py:Mine"),
    ],
)
def test_a_file_of_settings_runs_no_python_file(monkeypatch, capsys, tmp_path, settings, words):
    (tmp_path / "some.toml").write_text(settings)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text("raise SystemExit(7)")
    (tmp_path / "mine.py").write_text("raise SystemExit(7)")
    spec = [] if "model" in settings else ["amc:smallcnn"]
    code, _, error = run(monkeypatch, capsys, "search", *spec, "--config", "some.toml")
    assert code == 1
    assert words in error


AGENT = """
class Mine:
    policy = None
    def __init__(self, problem, seed=0, settings=None, start=None):
        self.problem = problem
    def ask(self, count):
        return [self.problem.uniform()]
    def tell(self, episodes):
        pass
    def diagnostics(self):
        return {}
"""


def test_a_run_s_agent_in_a_file_goes_on_only_where_that_is_allowed(
    monkeypatch, capsys, tmp_path, weights
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(AGENT)
    quick = ["--images", "20", "--calibration-images", "20", "--epochs", "0", "--episodes", "1"]
    typed = [
        "search",
        "amc:smallcnn",
        "--weights",
        weights,
        "--agent",
        "mine.py:Mine",
        "--run",
        "r",
        *quick,
    ]
    assert run(monkeypatch, capsys, *typed)[0] == 0
    code, _, error = run(monkeypatch, capsys, "search", "--resume", "r", "--episodes", "2")
    assert code == 1
    assert "allow it (--allow-factory)" in error
    longer = ["search", "--resume", "r", "--episodes", "2", "--allow-factory"]
    assert run(monkeypatch, capsys, *longer)[0] == 0
