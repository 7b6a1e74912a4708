"""The command line that a run's settings correspond to, and what no option of it can say."""

from __future__ import annotations

import json
import shlex
from typing import Any

from amc.config import (
    DataConfig,
    EvaluateConfig,
    FinetuneConfig,
    SearchConfig,
)
from amc.cost.quantities import written_bound
from amc.utils.options import options_of, with_commas

_OPTIONS = options_of(SearchConfig)
_STATED = {"data.spec", "seed", "episodes", "finetune.epochs"}
"""Settings that have options and that :func:`command_line` writes in any case."""
_FINETUNE = "finetune."


def command_line(config: SearchConfig, recipe: FinetuneConfig | None) -> str | None:
    """``amc search ...`` or ``amc replay ...`` for a shell, an option a line; None where the run
    was given objects.

    ``recipe`` is the finetuning that followed (of 0 epochs: none), None where it is not known. What
    was chosen for the user is written as if he had: it may be chosen otherwise elsewhere.
    """
    if config.model is None or config.data is None:
        return None
    verb = ["replay", config.start] if config.start else ["search"]
    name = {path: option.name for path, option in _OPTIONS.items()}
    lines = [["amc", *verb, config.model.spec], [name["data.spec"], config.data.spec]]
    for key, value in config.model.arguments.items():
        given = value if isinstance(value, str) else json.dumps(value)
        lines.append([name["model.arguments"], f"{key}={given}"])
    lines += [
        [name["budget"], f"{key}={written_bound(key, x)}"] for key, x in config.budget.items()
    ]
    if not config.budget and config.min_accuracy is None:
        lines.append(["--no-budget"])
    lines += [[name["episodes"], str(config.episodes)], [name["seed"], str(config.seed)]]
    options = _options(config)
    for key, value in changed_settings(config).items():
        if key in options:
            lines += _option(key, value)
    if config.round_to != SearchConfig().round_to:
        lines += [[name["round_to"], f"{kind}={n}"] for kind, n in config.round_to.items()]
    if recipe is not None:
        lines.append([name["finetune.epochs"], str(recipe.epochs)])
        for key, value in _changed_recipe(config, recipe).items():
            if key in options:
                lines += _option(key, value)
    return " \\\n  ".join(shlex.join(line) for line in lines)


def without_option(config: SearchConfig, recipe: FinetuneConfig | None) -> dict[str, Any]:
    """Settings that differ from their defaults and that :func:`command_line` cannot say."""
    options = _options(config)
    changed = {key: v for key, v in changed_settings(config).items() if key not in options}
    found = _changed_recipe(config, recipe) if recipe is not None else {}
    return changed | {key: value for key, value in found.items() if key not in options}


def _changed_recipe(config: SearchConfig, recipe: FinetuneConfig) -> dict[str, Any]:
    """The settings of a finetuning that are not their defaults, but for its epochs; none where
    there are no epochs."""
    # The command gives the search's seed to the finetuning as well.
    default = FinetuneConfig(epochs=recipe.epochs, seed=config.seed).model_dump(mode="json")
    return {
        f"{_FINETUNE}{key}": value
        for key, value in recipe.model_dump(mode="json").items()
        if recipe.epochs and value != default[key]
    }


def changed_settings(config: SearchConfig) -> dict[str, Any]:
    """Settings that differ from their defaults (the agent's: from its preset's), flat.

    Without those that are stated in their own form: the model, the data, the budget, the multiples
    of widths, episodes, seed, the finetuning.
    """
    default = SearchConfig(
        data=DataConfig(), agent=config.agent, preset=config.preset, evaluate=EvaluateConfig()
    )
    stated = {"model.spec", "data.spec", "start", "episodes", "seed"}
    flat_default = flatten(default.model_dump(mode="json"))
    flat_default |= {"agent": "expert", "preset": "default"}
    return {
        key: value
        for key, value in flatten(config.model_dump(mode="json")).items()
        if value != flat_default.get(key)
        and key not in stated
        and not key.startswith(("budget.", "model.arguments.", "round_to.", _FINETUNE))
    }


def _options(config: SearchConfig) -> set[str]:
    """Settings whose option is written where they differ from their defaults."""
    command = "replay" if config.start else "search"
    return {
        path
        for path, found in _OPTIONS.items()
        if command in found.option.commands and not found.option.texts and path not in _STATED
    }


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def _option(path: str, value: Any) -> list[list[str]]:
    """A setting as it is typed, a line for each time that its option is."""
    option = _OPTIONS[path].option
    if isinstance(value, bool):
        return [[option.name if value else option.name.replace("--", "--no-", 1)]]
    if option.commas:
        return [[option.name, with_commas(value) or "none"]]
    return [[option.name, str(one)] for one in (value if isinstance(value, list) else [value])]
