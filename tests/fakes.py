"""A chain of layers without a network: units, closed-form costs and an analytic quality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from torch import nn

from amc.agents.registry import Agent
from amc.cost.budget import Budget, resolve
from amc.envs.problem import Prior, PruningProblem
from amc.envs.pruning import PruningEnv
from amc.envs.reference_plan import Lost, Tuned, tune
from amc.envs.reward import make_reward
from amc.envs.sensitivity import Sensitivity
from amc.records.episode import Episode
from amc.utils.registry import Entry, Registry

_Network = TypeVar("_Network", bound=nn.Module)


def drawn(network: _Network, std: float, seed: int = 0) -> _Network:
    """``network`` with all parameters from a normal distribution."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=std, generator=generator)
    return network


def registered(
    monkeypatch: pytest.MonkeyPatch, registry: Registry[Any], name: str, target: Any
) -> None:
    """Add an entry for the length of a test."""
    monkeypatch.setitem(registry._entries, name, Entry(name, "a test's", target, registry._traits))


class FakeUnits(list[Any]):
    @property
    def dense_widths(self) -> tuple[int, ...]:
        return tuple(unit.width for unit in self)


def fake_units(widths: Sequence[int], least: float = 0.1, side: int = 16) -> FakeUnits:
    units = FakeUnits()
    for i, width in enumerate(widths):
        layer = SimpleNamespace(
            kind="conv",
            in_channels=widths[i - 1] if i else 4,
            out_channels=width,
            kernel=3,
            stride=1,
            height=side,
            width=side,
        )
        low = max(1, int(np.ceil(least * width)))
        units.append(
            SimpleNamespace(
                name=f"conv{i}",
                kind="conv",
                width=width,
                granularity=1,
                min_width=low,
                widths=tuple(range(low, width + 1)),
                layers=(layer,),
            )
        )
    return units


class FakeCost:
    """A chain: parameters are products of neighbouring widths, MACs the same times the area."""

    def __init__(self, dense: Sequence[int], area: int = 256, inputs: int = 4) -> None:
        self._dense, self._area, self._inputs = tuple(dense), area, inputs

    quantities = ("macs", "params")

    def totals(self, quantity: str, widths: Any) -> Any:
        widths = np.asarray(widths)
        sizes = np.concatenate([np.full_like(widths[..., :1], self._inputs), widths], axis=-1)
        params = (sizes[..., 1:] * sizes[..., :-1]).sum(axis=-1) + 10 * sizes[..., -1]
        return params * (self._area if quantity == "macs" else 1)

    def params(self, widths: Sequence[int]) -> int:
        return int(self.totals("params", widths))

    def macs(self, widths: Sequence[int]) -> int:
        return self._area * self.params(widths)

    def of(self, quantity: str, widths: Sequence[int]) -> int:
        return int({"macs": self.macs, "params": self.params}[quantity](widths))

    def costs(self, widths: Sequence[int]) -> dict[str, int]:
        return {name: self.of(name, widths) for name in self.quantities}

    def function(self, quantity: str) -> Any:
        return partial(self.of, quantity)

    def dense(self, quantity: str) -> int:
        return self.of(quantity, self._dense)


class FakeQuality:
    """kl = sum of sensitivity * (1 / keep - 1) ** power, and an interaction of neighbours."""

    def __init__(self, dense: Sequence[int], sensitivity: Sequence[float]) -> None:
        self._dense, self._sensitivity = np.array(dense), np.array(sensitivity)
        self.calls = 0

    def __call__(self, widths: Sequence[int]) -> Mapping[str, float]:
        self.calls += 1
        loss = self._dense / np.array(widths) - 1.0
        kl = float(self._sensitivity @ loss**1.2 + 0.02 * loss[1:] @ loss[:-1])
        return {"kl": kl, "accuracy": float(np.exp(-kl)), "cross_entropy": kl + 0.1}


DENSE_9 = (16, 16, 16, 32, 32, 32, 64, 64, 64)
SENSITIVITY_9 = (0.3, 0.02, 0.05, 0.2, 0.01, 0.08, 0.1, 0.02, 0.005)


def fake_problem(
    dense: Sequence[int] = DENSE_9,
    sensitivity: Sequence[float] = SENSITIVITY_9,
    *,
    limits: Mapping[str, float | tuple[float, float]] | None = None,
    constraint: str = "projection",
    reward: str = "kl",
    evaluate: Any = None,
    known: Sensitivity | None = None,
    probe: Lost | None = None,
) -> PruningProblem:
    """``limits`` are fractions of the dense network, or ranges of them; default: half the MACs."""
    units, cost = fake_units(dense), FakeCost(dense)
    fractions = {"macs": 0.5} if limits is None else limits
    budgets: Any = resolve(fractions, units, cost)  # type: ignore[arg-type]
    generator = np.random.default_rng(0)
    quality = evaluate or FakeQuality(dense, sensitivity)

    def tuned(budget: Budget) -> Tuned:
        return tune(units, cost, known, budget, lambda widths: quality(widths)["kl"])  # type: ignore[arg-type]

    return PruningProblem(
        units,  # type: ignore[arg-type]
        cost,  # type: ignore[arg-type]
        budgets,
        quality,
        make_reward(reward),
        Prior(
            [generator.gamma(2.0, size=width) for width in dense],
            known,
            [tuned(budget) for budget in budgets.spread(3) if budget.limits] if known else (),
            probe,
        ),
        constraint,  # type: ignore[arg-type]
    )


def rollout(
    env: PruningEnv, actions: Sequence[float]
) -> tuple[list[np.ndarray], float, dict[str, Any]]:
    """Observations, the last reward and the last info of one episode."""
    observations = [env.reset()[0]]
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(np.array([action], np.float32))
        observations.append(observation)
        assert not truncated
    assert terminated
    return observations, reward, info


def play(agent: Agent, problem: PruningProblem, episodes: int) -> list[Episode]:
    """Ask, evaluate, tell, one plan at a time."""
    history: list[Episode] = []
    while len(history) < episodes and (proposals := agent.ask(1)):
        done = [problem.score(proposal) for proposal in proposals]
        agent.tell(done)
        history += done
    return history
