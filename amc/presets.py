"""Settings of agents by name: checked by the agent's own rules, filled in from a preset."""

from __future__ import annotations

from typing import Any, NamedTuple

from amc.errors import ConfigError
from amc.registry import AGENTS
from amc.utils.registry import imported
from amc.utils.settings import Settings


def in_file(name: str) -> bool:
    """Whether ``name`` is that of an object in a user's Python file, ``path/to/file.py:Class``."""
    return name.rpartition(":")[0].endswith(".py")


class Preset(NamedTuple):
    """An agent, its settings where they are not the defaults, and the length of its search."""

    agent: str
    episodes: int
    settings: dict[str, Any]


PRESETS = {
    "default": Preset("expert", 150, {}),
    # He et al., AMC, ECCV 2018, section 4 and the authors' code: 400 episodes, 100 of them random,
    # truncated-normal noise .5 decaying by .95, one update for each transition.
    "amc-paper": Preset(
        "ddpg",
        400,
        {
            "warmup_episodes": 100,
            "warmup": "uniform",
            "start_uniform": False,
            "gradient_steps": -1,
            "buffer_episodes": 100,
            "bootstrap": True,
            "noise_decay": 0.95,
            "noise_floor": 0.0,
            "shaping": "baseline",
        },
    ),
}
"""Settings of a search by name."""


def agent_settings(name: str, values: Any = None, preset: str = "default") -> Settings | None:
    """The settings of the agent ``name``, checked; None where it has none.

    What ``values`` does not say is as in the preset, if that is one of this agent's. Raises
    :class:`ConfigError` where they are not sound, and for values that the agent does not take.
    """
    place = AGENTS.entry(name).traits["settings"] if name in AGENTS else None
    if place is None:
        if values:
            raise ConfigError(f"agent {name!r} has no settings")
        return None
    kind: type[Settings] = imported(place) if isinstance(place, str) else place
    if isinstance(values, kind):
        return values
    preset_values = PRESETS[preset].settings if PRESETS[preset].agent == name else {}
    return kind.parse({**preset_values, **dict(values or {})}, f"agent_settings.{name}")
