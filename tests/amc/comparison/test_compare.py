"""Comparisons: the same outcomes however they are run, gone on with, and told in tables."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import wilcoxon

from amc.comparison.compare import compare, tables
from amc.comparison.jobs import Outcome, all_jobs, read_outcomes
from amc.comparison.settings import CompareConfig
from amc.comparison.statistics import AgentResult, significance, stand
from amc.config import SearchConfig, sign_of
from amc.errors import ConfigError, RunError
from tests.tiny import failing_task, no_task, tiny_task

SETTINGS: dict[str, Any] = {
    "agents": ("random", "uniform", "cma-es"),
    "seeds": 2,
    "evaluations": (3, 6),
    "search": SearchConfig(budget={"macs": 0.5}),
}
CONFIG = CompareConfig(**SETTINGS)


def lines(run: Path) -> list[dict[str, Any]]:
    """Outcomes by job, without the times that they took."""
    outcomes = sorted(read_outcomes(run / "runs.jsonl"), key=lambda one: one.job)
    return [one.model_dump(exclude={"seconds"}) for one in outcomes]


def test_two_processes_one_of_which_dies_and_a_resume_give_the_lines_of_one(tmp_path: Path) -> None:
    here, there, trap = tmp_path / "here", tmp_path / "there", tmp_path / "trap"
    alone = compare(tiny_task, CONFIG, here, workers=1)
    assert [(x["agent"], x["seed"], len(x["rewards"])) for x in lines(here)] == [
        ("cma-es", 0, 6),
        ("cma-es", 1, 6),
        ("random", 0, 6),
        ("random", 1, 6),
        ("uniform", 0, 1),
    ]
    trap.touch()
    notes: list[str] = []
    with pytest.raises(RunError, match=r"1 of 5 searches failed.*SIGKILL"):
        compare(partial(tiny_task, trap), CONFIG, there, workers=2, on_note=notes.append)
    assert len(notes) == 1
    assert len(lines(there)) == 4
    assert all(line in lines(here) for line in lines(there))
    with (there / "runs.jsonl").open("a") as file:
        file.write('{"agent": "random", "se')  # cut off by a crash
    resumed = compare(tiny_task, CONFIG, there, workers=1)
    assert lines(there) == lines(here)
    for one, other in zip(alone.agents, resumed.agents, strict=True):
        np.testing.assert_array_equal(one.curves, other.curves)


def test_done_jobs_are_not_done_again(tmp_path: Path) -> None:
    compare(tiny_task, CONFIG, tmp_path / "run", workers=1)
    path = tmp_path / "run" / "runs.jsonl"
    whole, before = path.read_text(), lines(tmp_path / "run")
    told: list[tuple[str, int, int, str]] = []
    compare(no_task, CONFIG, tmp_path / "run", workers=1, on_agent=lambda *x: told.append(x))
    assert path.read_text() == whole
    assert [(agent, done, total) for agent, done, total, _ in told] == [
        ("random", 6, 12),
        ("uniform", 1, 1),
        ("cma-es", 6, 12),
        ("random", 12, 12),
        ("cma-es", 12, 12),
    ]
    assert told[-1][3].endswith(", 2 of 2 searches")
    del told[:]
    first, *others = whole.splitlines()
    path.write_text("\n".join(others) + "\n")
    compare(tiny_task, CONFIG, tmp_path / "run", workers=1, on_agent=lambda *x: told.append(x))
    assert len(told) == len(others) + len(json.loads(first)["rewards"]) + 1
    assert sorted(lines(tmp_path / "run"), key=str) == sorted(before, key=str)


def test_more_agents_and_seeds_come_later_but_not_another_problem(tmp_path: Path) -> None:
    run = tmp_path / "run"
    fewer = CompareConfig(**{**SETTINGS, "agents": ("random",), "seeds": 1})
    compare(tiny_task, fewer, run, workers=1)
    (before,) = lines(run)
    comparison = compare(tiny_task, CONFIG, run, workers=1)
    assert before in lines(run)
    assert [one.agent for one in comparison.agents] == ["random", "uniform", "cma-es"]
    for changed in (
        {"evaluations": (3, 7)},
        {"search": SearchConfig(budget={"macs": 0.4})},
    ):
        with pytest.raises(RunError, match="comparison of other searches"):
            compare(tiny_task, CompareConfig(**{**SETTINGS, **changed}), run)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="something else"):
        compare(tiny_task, CONFIG, tmp_path)


def test_a_search_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    notes: list[str] = []
    with pytest.raises(RunError, match=r"5 of 5 searches failed.*uniform, seed 0: .*no light"):
        compare(failing_task, CONFIG, tmp_path / "run", workers=1, on_note=notes.append)
    assert len(notes) == 5


def test_jobs_and_their_settings() -> None:
    config = CompareConfig(**{**SETTINGS, "agents": ("ddpg:amc-paper", "greedy", "ddpg")})
    assert [str(job) for job in all_jobs(config)] == [
        "ddpg:amc-paper, seed 0",
        "greedy, seed 0",
        "ddpg, seed 0",
        "ddpg:amc-paper, seed 1",
        "ddpg, seed 1",
    ]
    paper, ours = config.job("ddpg:amc-paper", 3), config.job("ddpg", 3)
    assert (paper.agent, paper.preset, paper.seed, paper.episodes) == ("ddpg", "amc-paper", 3, 6)
    assert paper.agent_settings["ddpg"].warmup_episodes == 100
    assert ours.agent_settings != paper.agent_settings
    for wrong, message in (
        ("ddpg:fast", "ddpg:amc-paper"),
        ("random:amc-paper", "with a preset"),
        ("sac", "'sac'"),
    ):
        with pytest.raises(ConfigError, match=message):
            CompareConfig.parse({**SETTINGS, "agents": (wrong,)})


def outcome(agent: str, seed: int, rewards: list[float]) -> Outcome:
    return Outcome(
        agent=agent,
        seed=seed,
        rewards=tuple(rewards),
        quality={"kl": tuple(-reward for reward in rewards)},
        widths=(1,),
        kept={"macs": 0.5, "params": 0.5},
        seconds={"agent": 2.0 * len(rewards), "evaluate": 1.0},
    )


def test_standings_by_hand() -> None:
    outcomes = [
        outcome("random", 1, [-3.0, -2.0, -4.0, -1.0]),
        outcome("random", 0, [-5.0, -2.5, -2.5, -2.0]),
        outcome("random", 2, [-2.0, -2.1, -0.5]),
        outcome("uniform", 0, [-2.2]),
    ]
    config = CompareConfig(**{**SETTINGS, "evaluations": (1, 2, 4), "seeds": 3})
    comparison = stand(config, outcomes)
    random, uniform = comparison.agents
    assert random.seeds == (0, 1, 2)
    np.testing.assert_array_equal(random.curves, [[5, 2.5, 2.5, 2], [3, 2, 2, 1], [2, 2, 0.5, 0.5]])
    head, (first, second) = comparison.table()
    assert head == ["agent", "seeds", "1", "2", "4", "agent s / plan", "search s"]
    assert first == ["random", "3", "3 (2 to 5)", "2 (2 to 2.5)", "1 (0.5 to 2)", "2", "9"]
    assert second == ["uniform", "1", "2.2", "2.2", "2.2", "2", "3"]
    p = [wilcoxon([5, 3, 2], [2.2] * 3).pvalue, wilcoxon([2.5, 2, 2], [2.2] * 3).pvalue]
    assert [significance(random, uniform, mark) for mark in (1, 2)] == [(3, x) for x in p]
    told = comparison.to_json()["agents"]
    assert told[0]["median"] == [3, 2, 1]
    assert told[1]["p"][:2] == p
    assert [table.row_count for table in tables(comparison)] == [2, 1]


def test_rewards_that_are_their_own_quality_keep_their_sign() -> None:
    config = CompareConfig(
        **{**SETTINGS, "search": SearchConfig(reward="accuracy", budget={"macs": 0.5})}
    )
    comparison = stand(config, [outcome("random", 0, [0.3, 0.5])])
    assert comparison.agents[0].curves.tolist() == [[0.3, 0.5]]
    assert (sign_of("kl"), sign_of("cross_entropy"), sign_of("amc-flops")) == (-1, -1, 1)


def standing(seeds: list[int], values: list[float]) -> AgentResult:
    return AgentResult("x", tuple(seeds), np.array(values)[:, None], 0.0, 0.0)


def test_significance_pairs_the_seeds() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(0, 1, 10), generator.normal(0.5, 1, 10)
    expected = wilcoxon(one, other).pvalue
    shuffled = generator.permutation(10)
    mixed = standing(shuffled.tolist(), other[shuffled].tolist())
    assert significance(standing(list(range(10)), one.tolist()), mixed, 1) == (10, expected)
    # Seeds that only one of them has are left out.
    fewer = standing(list(range(3, 10)), other[3:].tolist())
    assert significance(standing(list(range(10)), one.tolist()), fewer, 1) == (
        7,
        wilcoxon(one[3:], other[3:]).pvalue,
    )
    single = standing([0], [0.2])
    assert significance(single, mixed, 1)[1] == wilcoxon(other - 0.2).pvalue
    assert significance(mixed, mixed, 1) == (10, 1.0)
    apart = significance(standing([0, 1], [1, 2]), standing([2, 3], [1, 2]), 1)
    assert apart[0] == 0
    assert np.isnan(apart[1])


def test_the_page_and_the_pictures(tmp_path: Path) -> None:
    run = tmp_path / "run"
    comparison = compare(tiny_task, CONFIG, run, workers=1)
    page = (run / "compare.md").read_text()
    assert "| agent | seeds | 3 | 6 | agent s / plan | search s |" in page
    assert "| random against | pairs | 3 | 6 |" in page
    assert "macs=0.5" in page
    assert "(compare.svg)" in page
    svg = (run / "compare.svg").read_bytes()
    assert all(agent.encode() in svg for agent in CONFIG.agents)
    assert (run / "compare.png").read_bytes().startswith(b"\x89PNG")
    compare(tiny_task, CONFIG, run, workers=1)
    assert (run / "compare.svg").read_bytes() == svg, "the same lines, the same picture"
    assert asdict(comparison)["marks"] == (3, 6)
