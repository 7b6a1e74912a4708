"""Settings of a comparison."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from amc.config import SearchConfig
from amc.errors import ConfigError
from amc.presets import PRESETS
from amc.registry import AGENTS
from amc.utils.options import AGENT, Option
from amc.utils.settings import Settings


class CompareConfig(Settings):
    """Searchers that are run side by side."""

    agents: Annotated[
        tuple[str, ...], Option("--agents", ("compare",), AGENT, basic=True, commas=True)
    ] = Field(default_factory=AGENTS.names, min_length=1)
    """Agents of the table above, with commas; the first is tested against every other.

    ``NAME``, or ``NAME:PRESET``, one of :data:`PRESETS`, or ``path/to/file.py:Class``."""
    seeds: Annotated[int, Option("--seeds", ("compare",), AGENT, basic=True)] = Field(10, ge=1)
    """Searches with each agent, with seeds from 0; one where nothing is random."""
    evaluations: Annotated[
        tuple[PositiveInt, ...],
        Option("--evaluations", ("compare",), AGENT, basic=True, commas=True),
    ] = Field((20, 40, 80, 150), min_length=1)
    """Compare after so many evaluated plans; the largest is the length of a search."""
    search: SearchConfig
    """What all searches have in common. Its agent, preset, seed and episodes are replaced."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for agent in self.agents:
            self.job(agent, 0)
        return self

    def job(self, agent: str, seed: int) -> SearchConfig:
        """The settings of one search; raises :class:`ConfigError` for an unknown agent."""
        name, colon, preset = agent.partition(":")
        if name.endswith(".py") and colon:  # a class in a user's file
            name, colon, preset = agent, "", ""
        if colon and (name != "ddpg" or preset not in PRESETS):
            presets = ", ".join(f"ddpg:{known}" for known in PRESETS)
            raise ConfigError(f"agent {agent!r}: with a preset, write one of {presets}")
        preset = preset or "default"
        own = {
            "agent": name,
            "preset": preset,
            "agent_settings": {},
            "seed": seed,
            "episodes": max(self.evaluations),
        }
        return SearchConfig.parse(self.search.model_dump() | own)
