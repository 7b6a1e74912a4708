"""Rewards: what a plan is worth once its network has been scored.

A reward is an object that is called with the quality and the cost of a plan. A new one is a class
of a few lines, a function that makes it, and an entry in :data:`amc.registry.REWARDS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from amc.errors import EvaluationError
from amc.registry import REWARDS


class Reward(Protocol):
    """``reward(quality, kept)``: higher is better."""

    @property
    def target_loss(self) -> float | None:
        """The loss that the cheapest network is sought for; None where the budget decides."""

    def loss(self, quality: Mapping[str, float], kept: Mapping[str, float]) -> float:
        """How far a plan is from a network that is right about everything, from 0 up.

        A critic learns this, because unlike some rewards it changes smoothly with the widths.
        """

    def __call__(self, quality: Mapping[str, float], kept: Mapping[str, float]) -> float:
        """Value a plan.

        Args:
            quality: ``accuracy`` in [0, 1], ``cross_entropy`` and ``kl`` in nats per image.
            kept: absolute cost of the pruned network: ``macs``, ``params``, ``latency_us``.

        Raises:
            EvaluationError: a value is missing, is not finite, or does not fit the formula.
        """


@dataclass(frozen=True)
class QualityReward:
    """The quality alone, for searches under a budget.

    ``accuracy`` as it is (AMC's resource-constrained mode); ``cross_entropy`` to the labels and
    ``kl`` to the dense network (mean KL(dense || pruned)) with a minus sign.
    """

    signal: Literal["accuracy", "cross_entropy", "kl"]

    target_loss: ClassVar[None] = None

    def loss(self, quality: Mapping[str, float], kept: Mapping[str, float]) -> float:  # noqa: ARG002
        """See :class:`Reward`."""
        value = _finite(quality, self.signal)
        return 1.0 - value if self.signal == "accuracy" else value

    def __call__(self, quality: Mapping[str, float], kept: Mapping[str, float]) -> float:  # noqa: ARG002
        """See :class:`Reward`."""
        value = _finite(quality, self.signal)
        return value if self.signal == "accuracy" else -value


@dataclass(frozen=True)
class ErrorLogReward:
    """AMC's accuracy-guaranteed reward: -error * log(cost), He et al. 2018, equation 4.

    The cost is absolute (MACs, parameters, microseconds) and must exceed 1, so that the logarithm
    is positive and a cheaper network of the same error earns more.
    """

    cost: str
    target_loss: ClassVar[None] = None

    def loss(self, quality: Mapping[str, float], kept: Mapping[str, float]) -> float:
        """See :class:`Reward`."""
        return -self(quality, kept)

    def __call__(self, quality: Mapping[str, float], kept: Mapping[str, float]) -> float:
        """See :class:`Reward`."""
        error = 1.0 - _finite(quality, "accuracy")
        cost = _finite(kept, self.cost)
        if cost <= 1.0:
            raise EvaluationError(
                f"{self.cost} is {cost:g}: -error * log(cost) needs an absolute cost above 1;"
                " pass counts, not fractions"
            )
        return -error * math.log(cost)


@dataclass(frozen=True)
class FloorReward:
    """The cheapest network of at least some accuracy: 1 - cost where it is held.

    The cost is a fraction of the dense network's. A plan below the floor earns minus what is
    missing: less than any that holds it, and more the nearer it comes.
    """

    accuracy: float
    """The floor, in [0, 1]."""
    cost: str
    dense: float
    """What the dense network costs."""

    @property
    def target_loss(self) -> float:
        """See :class:`Reward`."""
        return 1.0 - self.accuracy

    def loss(self, quality: Mapping[str, float], kept: Mapping[str, float]) -> float:  # noqa: ARG002
        """See :class:`Reward`."""
        return 1.0 - _finite(quality, "accuracy")

    def __call__(self, quality: Mapping[str, float], kept: Mapping[str, float]) -> float:
        """See :class:`Reward`."""
        missing = self.accuracy - _finite(quality, "accuracy")
        return -missing if missing > 0 else 1.0 - _finite(kept, self.cost) / self.dense


def kl() -> Reward:
    """Minus the KL divergence from the dense network's outputs."""
    return QualityReward("kl")


def accuracy() -> Reward:
    """Search-val accuracy."""
    return QualityReward("accuracy")


def cross_entropy() -> Reward:
    """Minus the cross-entropy to the labels."""
    return QualityReward("cross_entropy")


def amc_flops() -> Reward:
    """AMC's, of MACs."""
    return ErrorLogReward("macs")


def amc_params() -> Reward:
    """AMC's, of parameters."""
    return ErrorLogReward("params")


def amc_latency() -> Reward:
    """AMC's, of microseconds."""
    return ErrorLogReward("latency_us")


def make_reward(name: str) -> Reward:
    """The reward of that name; raises :class:`ConfigError` where there is none."""
    made: Reward = REWARDS.load(name)()
    return made


def _finite(values: Mapping[str, float], name: str) -> float:
    if name not in values:
        raise EvaluationError(
            f"{name} is missing from {sorted(values)}: the evaluator must give it"
        )
    value = float(values[name])
    if not math.isfinite(value):
        raise EvaluationError(
            f"{name} is {value}: this plan breaks the network; raise min_keep, or recalibrate"
            " BatchNorm on more images"
        )
    return value
