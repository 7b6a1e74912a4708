"""One policy from two networks: their turns, what is left of each, and trainings cut short."""

import json
import shutil

import pytest

from amc.agents.expert.settings import ExpertConfig
from amc.agents.policy import Policy
from amc.agents.warm_start import play
from amc.envs.make import make_problem
from amc.errors import ConfigError, RunError
from amc.pipeline.multi_network import train_policy
from amc.pipeline.search import make_config, search
from amc.pruning.plan import Plan
from amc.records.episode import read_episodes
from tests.amc.pipeline.test_search import comparable, tiny_task, wider_task

SETTINGS = {"expert": ExpertConfig(warmup_episodes=3, gradient_steps=5)}
GIVEN = {"budget": "flops=0.4:0.8", "seed": 2, "agent_settings": SETTINGS}
NAMES = ("narrow", "wide")


def tasks():
    return dict(zip(NAMES, (tiny_task(), wider_task()), strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted training: its folder, what came back, and the turns."""
    path, turns = tmp_path_factory.mktemp("whole") / "run", []

    def told(name, episode, _best):
        turns.append((name, episode.number))

    return path, train_policy(tasks(), run=path, episodes=15, on_episode=told, **GIVEN), turns


def stored(path):
    folders = [path / "networks" / name for name in NAMES]
    return (
        [[comparable(e) for e in read_episodes(one / "episodes.jsonl")] for one in folders],
        [(one / "front.json").read_text() for one in folders],
        [(one / "plan.json").read_text() for one in folders],
        (path / "policy" / "actor.safetensors").read_bytes(),
        (path / "policy" / "policy.json").read_text(),
    )


def test_networks_take_turns_and_leave_plans_of_their_own(whole):
    path, trained, turns = whole
    assert turns == [(NAMES[i % 2], i // 2 + 1) for i in range(15)]
    assert {name: len(episodes) for name, episodes in trained.history.items()} == {
        "narrow": 8,
        "wide": 7,
    }
    for name, episodes in trained.history.items():
        folder = path / "networks" / name
        assert read_episodes(folder / "episodes.jsonl") == episodes
        assert Plan.load(folder / "plan.json").dense_costs["macs"] * 0.8 >= max(
            e.costs["macs"] for e in episodes
        )
        assert not (folder / "policy").exists()


def test_the_first_network_is_searched_as_alone_until_it_has_learned_from_the_other(whole):
    _, trained, _ = whole
    alone = search(tiny_task(), GIVEN["budget"], episodes=4, seed=2, agent_settings=SETTINGS)
    warmup = [comparable(e) for e in trained.history["narrow"][:3]]
    assert warmup == [comparable(e) for e in alone.history[:3]]


def test_the_policy_knows_both_and_says_so(whole):
    path, trained, _ = whole
    policy = Policy.load(path)
    assert policy.trained_on == trained.policy.trained_on
    assert policy.trained_on.budget["macs"] == pytest.approx((0.4, 0.8), rel=1e-3)
    assert [(one.units, one.episodes) for one in policy.trained_on.networks] == [(3, 8), (5, 7)]
    reached = policy.trained_on.networks[0].reached
    assert [one.kept["macs"] for one in reached] == sorted(one.kept["macs"] for one in reached)
    for task in tasks().values():
        problem = make_problem(task, make_config("flops=0.5"))
        assert 0.4 < problem.score(play(policy, problem, problem.budget)).kept["macs"] <= 0.5


@pytest.mark.parametrize(("narrow", "wide"), [(5, 3), (8, 6)])
def test_resumed_it_ends_as_if_it_had_not_been_interrupted(whole, tmp_path, narrow, wide):
    path = tmp_path / "run"
    shutil.copytree(whole[0], path)
    shutil.rmtree(path / "policy")
    for name, kept in zip(NAMES, (narrow, wide), strict=True):
        file = path / "networks" / name / "episodes.jsonl"
        file.write_bytes(b"".join(file.read_bytes().splitlines(keepends=True)[:kept]))
    trained = train_policy(tasks(), run=path, resume=True)
    assert stored(path) == stored(whole[0])
    assert not trained.interrupted
    longer = train_policy(tasks(), run=path, resume=True, episodes=18)
    assert [len(one) for one in longer.history.values()] == [9, 9]


def test_a_part_of_a_training_is_not_resumed_alone(whole):
    path, *_ = whole
    with pytest.raises(ConfigError, match="is a part of a training on several networks; resume"):
        search(tiny_task(), run=path / "networks" / "narrow", resume=True)
    with pytest.raises(ConfigError, match="is a training on narrow, wide"):
        train_policy({"narrow": tiny_task()}, run=path, resume=True)
    with pytest.raises(ConfigError, match="of the settings only episodes"):
        train_policy(tasks(), run=path, resume=True, seed=3)
    with pytest.raises(RunError, match="not the folder of a training"):
        train_policy(tasks(), run=path / "networks", resume=True)
    with pytest.raises(RunError, match="not empty"):
        train_policy(tasks(), run=path, episodes=4, **GIVEN)


def test_an_interrupted_training_leaves_the_policy_so_far(tmp_path):
    stopping = {"narrow": tiny_task(break_at=4, error=KeyboardInterrupt()), "wide": wider_task()}
    trained = train_policy(stopping, run=tmp_path / "run", episodes=40, **GIVEN)
    assert trained.interrupted
    described = json.loads((tmp_path / "run" / "policy" / "policy.json").read_text())
    assert sum(one["episodes"] for one in described["trained_on"]["networks"]) < 40


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"budget": "params=100k"}, "networks share no count"),
        ({"agent": "ddpg"}, "by agent 'expert'"),
        ({"episodes": 1}, "fewer than networks"),
    ],
)
def test_what_a_training_cannot_do_is_said(settings, words):
    with pytest.raises(ConfigError, match=words):
        train_policy(tasks(), **{**GIVEN, **settings})


def test_one_network_is_a_search():
    with pytest.raises(ConfigError, match="needs two"):
        train_policy({"narrow": tiny_task()}, **GIVEN)
