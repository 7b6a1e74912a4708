"""The plans that searchers propose stay what they were, whatever is rebuilt around them.

The expectations are of version 0.1.0 before its layout changed. Only searchers whose arithmetic is
the same on every processor are here; the network is a formula (:mod:`tests.fakes`).
"""

import json
from pathlib import Path

import numpy as np
import pytest

from amc.agents.registry import make_agent
from amc.envs.sensitivity import Sensitivity
from tests.fakes import SENSITIVITY_9, fake_problem, play

EXPECTED = json.loads(Path(__file__).with_name("same_episodes.json").read_text())
KNOWN = Sensitivity(np.array(SENSITIVITY_9) / np.mean(SENSITIVITY_9))


@pytest.mark.parametrize("case", EXPECTED)
def test_the_first_twenty_plans_are_the_same(case):
    name, _, limits = case.partition(" ")
    bounds = {q: tuple(b) if isinstance(b, list) else b for q, b in json.loads(limits).items()}
    problem = fake_problem(limits=bounds, known=KNOWN)
    episodes = play(make_agent(name, problem, seed=3), problem, 20)
    assert [list(episode.widths) for episode in episodes] == EXPECTED[case]
