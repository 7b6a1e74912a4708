"""Names that settings may hold: each is looked up in its table."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator

from amc.cost.quantities import QUANTITIES
from amc.errors import ConfigError
from amc.presets import in_file
from amc.registry import AGENTS, AUGMENTATIONS, BACKENDS, DISTILLATIONS, IMPORTANCES, REWARDS
from amc.utils.registry import Registry


def _agent(name: str) -> str:
    """A name of the table, or ``path/to/file.py:Class`` of a user's."""
    if not in_file(name):
        try:
            AGENTS.entry(name)
        except ConfigError as error:
            raise ValueError(f"{error}, or path/to/file.py:Class") from None
    return name


def _known(registry: Registry[Any]) -> AfterValidator:
    """Refuses a name that is not in the table."""

    def check(name: str) -> str:
        try:
            return registry.entry(name).name
        except ConfigError as error:
            raise ValueError(str(error)) from None

    return AfterValidator(check)


AgentName = Annotated[str, AfterValidator(_agent)]
ImportanceName = Annotated[str, _known(IMPORTANCES)]
RewardName = Annotated[str, _known(REWARDS)]
BackendName = Annotated[str, _known(BACKENDS)]
AugmentationName = Annotated[str, _known(AUGMENTATIONS)]
DistillationName = Annotated[str, _known(DISTILLATIONS)]
ConstraintName = Literal["projection", "sequential"]
QuantityName = Annotated[str, _known(QUANTITIES)]
Signal = Literal["kl", "accuracy", "cross_entropy"]
