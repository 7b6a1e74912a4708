"""The trained actor as a file: weights without code, and what they expect to see.

A policy is a folder with ``actor.safetensors`` and ``policy.json``. Loading executes nothing: the
network is rebuilt from the description, and both files are validated.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import amc
from amc.agents.policy_network import Ensemble, make_single
from amc.config import ConstraintName
from amc.cost.quantities import Bound
from amc.envs.observation import FEATURES, FEATURES_VERSION
from amc.errors import ConfigError
from amc.records.episode import fractions_by_quantity
from amc.utils.settings import Settings

_NAMES = tuple(feature.name for feature in FEATURES)


class Reached(Settings):
    """A plan that the training found."""

    kept: dict[str, float]
    """Costs as fractions of the dense network's, by quantity."""
    quality: dict[str, float]
    """On search-val, before finetuning."""

    @model_validator(mode="before")
    @classmethod
    def _by_quantity(cls, values: Any) -> Any:
        """Older files have a field for each cost."""
        return fractions_by_quantity(values)


class Training(Settings):
    """A network that a policy was trained on."""

    network: str | None = None
    """``amc:resnet20``; None where it was handed over as an object."""
    units: int
    episodes: int
    reached: tuple[Reached, ...] = ()
    """Its best plans, from cheap to dear."""


class TrainedOn(Settings):
    """Where a policy comes from."""

    budget: dict[str, Bound] = Field(default_factory=dict)
    """Upper bounds in training, as fractions of the dense networks, or ranges of them."""
    seed: int = 0
    networks: tuple[Training, ...] = ()


class PolicyFile(Settings):
    """What ``policy.json`` holds."""

    format: Literal["amc.policy/1"] = "amc.policy/1"
    amc: str
    """The version of this library that wrote it."""
    features_version: int
    features: tuple[str, ...]
    hidden: tuple[int, ...] = Field(min_length=1)
    members: int | None = Field(ge=2)
    """Networks that correct the reference plan together
    (:class:`amc.agents.policy_network.Ensemble`); None: one that states the actions by itself."""
    constraint: ConstraintName
    """Under which the actions have their meaning."""
    trained_on: TrainedOn


@dataclass(frozen=True)
class Policy:
    """A deterministic map from observations to actions.

    ``actor`` maps (N, features) to (N, 1); beyond [-1, 1] is as far as it goes.
    """

    actor: nn.Module
    constraint: ConstraintName
    trained_on: TrainedOn = field(default_factory=TrainedOn)

    @torch.no_grad()
    def act(self, observation: np.ndarray) -> np.ndarray:
        """The action, (1,) float32, for an observation, (features,) float32."""
        batch = torch.from_numpy(np.asarray(observation, dtype=np.float32))[None]
        return np.asarray(self.actor(batch)[0].clamp(-1, 1).numpy())

    @property
    def hidden(self) -> tuple[int, ...]:
        """Sizes of the actor's hidden layers."""
        if isinstance(self.actor, Ensemble):
            return self.actor.hidden
        layers = self.actor.modules()
        return tuple(x.out_features for x in layers if isinstance(x, nn.Linear))[:-1]

    def save(self, folder: Path) -> None:
        """Write the two files into ``folder``, which is created."""
        header = PolicyFile(
            amc=amc.__version__,
            features_version=FEATURES_VERSION,
            features=_NAMES,
            hidden=self.hidden,
            members=self.actor.members if isinstance(self.actor, Ensemble) else None,
            constraint=self.constraint,
            trained_on=self.trained_on,
        )
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: w.detach().cpu().contiguous() for name, w in self.actor.state_dict().items()
        }
        save_file(weights, folder / "actor.safetensors")
        text = json.dumps(header.model_dump(mode="json"), indent=2)
        (folder / "policy.json").write_text(text + "\n")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a policy, or that of a run's folder (:func:`holds_policy`).

        Raises :class:`ConfigError` where a file is missing, damaged, of an unknown format or
        version, or where the weights do not fit the description.
        """
        if not (folder / "policy.json").exists() and (folder / "policy").is_dir():
            folder = folder / "policy"
        header = _read_header(folder / "policy.json")
        hidden, members = header.hidden, header.members
        with torch.device("meta"):  # draws no random numbers, and claims no memory
            actor = Ensemble(hidden, members) if members else make_single(hidden)
        path = folder / "actor.safetensors"
        try:
            # Where a tensor lies in the file decides how its products are rounded.
            weights = {name: w.clone() for name, w in load_file(path).items()}
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path}: not a readable safetensors file: {error}") from None
        bad = [n for n, w in weights.items() if w.dtype != torch.float32 or not w.isfinite().all()]
        if bad:
            raise ConfigError(f"{path}: {', '.join(bad)} holds values that are not finite float32")
        try:
            actor.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise ConfigError(f"{path}: the weights do not fit policy.json: {error}") from None
        return cls(actor, header.constraint, header.trained_on)


def holds_policy(folder: Path) -> bool:
    """Whether a policy, or a run's policy, is in ``folder``."""
    return any((folder / part / "policy.json").exists() for part in ("", "policy"))


def _read_header(path: Path) -> PolicyFile:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a readable JSON file: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: holds a {type(values).__name__}, expected an object")
    header = PolicyFile.parse(values, source=str(path))
    if header.features_version != FEATURES_VERSION or header.features != _NAMES:
        raise ConfigError(
            f"{path}: made for version {header.features_version} of the features, this is version"
            f" {FEATURES_VERSION}: train the policy again"
        )
    return header
