from __future__ import annotations

import numpy as np
import pytest

from amc.agents import make_agent
from amc.config import AgentConfig
from amc.errors import ConfigError
from tests.fakes import FakeQuality, fake_env, play


@pytest.mark.parametrize("constraint", ["projection", "sequential"])
def test_uniform_plays_once(constraint: str) -> None:
    env = fake_env(constraint=constraint)
    agent = make_agent("uniform", env, AgentConfig(), 0)
    history = play(agent, env, 50)
    assert [episode.executed_keep for episode in history] == [pytest.approx(env.uniform_keep())]
    assert agent.policy is None
    assert agent.diagnostics() == {}


def test_random_plans_are_on_the_budget_and_follow_the_seed() -> None:
    def plans(seed: int) -> list[tuple[int, ...]]:
        env = fake_env()
        history = play(make_agent("random", env, AgentConfig(), seed), env, 30)
        assert all(0.47 < episode.kept_macs <= 0.5 for episode in history)
        assert [episode.number for episode in history] == list(range(1, 31))
        return [episode.widths for episode in history]

    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert plans(1) == plans(1) != plans(2)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_the_evaluator_is_called_once_an_episode() -> None:
    quality = FakeQuality((8, 8), (0.1, 0.2))
    env = fake_env((8, 8), (), evaluate=quality)
    play(make_agent("random", env, AgentConfig(), 0), env, 7)
    assert quality.calls == 7


def test_unknown_agent() -> None:
    with pytest.raises(ConfigError, match="'sac' is unknown; choose from expert, ddpg"):
        make_agent("sac", fake_env(), AgentConfig(), 0)
