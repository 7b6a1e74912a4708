"""What was found on one network, on another: by name, by path, in hand; searched on or as it is."""

import json
import shutil

import pytest
import torch

from amc.agents.expert.settings import ExpertConfig
from amc.agents.policy import Policy
from amc.agents.policy_network import make_single
from amc.config import ModelConfig, SearchConfig
from amc.errors import ConfigError, PlanError
from amc.models.factory import build_model
from amc.pipeline.replay import propose, replay
from amc.pipeline.search import search
from amc.pipeline.source import find_source
from amc.pruning.plan import Plan
from amc.records.run_folder import RunFolder
from amc.task import Task
from tests.amc.pipeline.test_resume import cut, stored
from tests.fakes import drawn

SMALL = ModelConfig(spec="amc:smallcnn", arguments={"num_classes": 10})
ADAPT = {"expert": ExpertConfig(gradient_steps=5)}


def small_task(seed=0):
    """A checkpoint of ``amc:smallcnn``, and how far a candidate's outputs are from its own."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(SMALL)
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        dense = model(images)

    def evaluate(candidate):
        with torch.no_grad():
            return {"kl": float((candidate(images) - dense).pow(2).mean())}

    return Task(model, images[:1], evaluate, config=SMALL)


def opinionated(constraint="projection"):
    return Policy(drawn(make_single((16,)), std=0.4, seed=3), constraint)


@pytest.fixture
def policy(tmp_path, monkeypatch):
    """An actor with a strong opinion, in the library under the name ``mine``."""
    monkeypatch.chdir(tmp_path)
    opinionated().save(tmp_path / "runs" / "policies" / "mine")
    return tmp_path / "runs" / "policies" / "mine"


@pytest.mark.filterwarnings("ignore:the policy was trained at 100.0% of the macs")
def test_a_policy_by_name_by_path_and_in_hand_is_the_same(policy):
    task = small_task()
    results = [
        replay(source, task, "flops=0.5")
        for source in ("mine", policy, str(policy), Policy.load(policy))
    ]
    (widths,) = {result.best.widths for result in results}
    assert all(len(result.history) == 1 for result in results)
    assert widths != search(task, "flops=0.5", agent="uniform").best.widths
    assert results[0].best.kept["macs"] <= 0.5
    source = find_source("mine")
    config = SearchConfig(budget={"macs": 0.5}, model=SMALL, start=source.name)
    unscored = propose(source, task.model, task.example_inputs, config)
    assert unscored.widths() == widths
    assert unscored.quality == {}
    assert unscored.costs["macs"] == results[0].plan.costs["macs"]
    ranged = config.model_copy(update={"budget": {"macs": (0.3, 0.8)}})
    with pytest.raises(ConfigError, match="give one budget, not a range"):
        propose(source, task.model, task.example_inputs, ranged)


def test_what_is_no_source_is_said(policy):
    with pytest.raises(ConfigError, match=r"theirs: neither a policy, .*runs/policies \(mine\)"):
        replay("theirs", small_task(), "flops=0.5")
    with pytest.raises(ConfigError, match="mine is a policy: give a budget"):
        replay("mine", small_task())
    (policy / "plan.json").write_text("{}")
    with pytest.raises(PlanError, match="not a sound plan"):
        replay(policy / "plan.json", small_task())


@pytest.mark.filterwarnings("ignore:the policy was trained at 100.0% of the macs")
def test_a_sequential_policy_brings_its_constraint(policy):
    opinionated("sequential").save(policy)
    result = replay("mine", small_task(), "flops=0.5", episodes=2)
    assert result.history[0].kept["macs"] <= 0.5
    assert len(result.history) == 2


def test_a_plan_on_another_checkpoint_keeps_its_widths_and_ranks_channels_anew(tmp_path):
    found = search(
        small_task(), "flops=0.37", agent="random", episodes=4, run=tmp_path / "run", seed=1
    )
    other = small_task(seed=7)
    by_file = replay(tmp_path / "run" / "plan.json", other, run=tmp_path / "again")
    in_hand = replay(found.plan, other)
    assert by_file.best.widths == in_hand.best.widths == found.best.widths
    assert by_file.plan.weights_sha256 != found.plan.weights_sha256
    assert by_file.plan.units != found.plan.units
    assert RunFolder(tmp_path / "again").load_config().start == str(tmp_path / "run" / "plan.json")
    wider = replay(found.plan, other, "flops=0.6", episodes=3, agent_settings=ADAPT)
    assert all(0.55 < episode.kept["macs"] <= 0.6 for episode in wider.history)
    assert wider.history[0].widths != found.best.widths


@pytest.mark.filterwarnings("ignore:the policy was trained at 100.0% of the macs")
def test_an_adaptation_is_resumed_to_the_bit_without_what_it_began_with(policy, tmp_path):
    given = {"episodes": 7, "agent_settings": ADAPT, "seed": 4}
    whole = tmp_path / "whole"
    result = replay("mine", small_task(), "flops=0.5", run=whole, **given)
    described = json.loads((whole / "policy" / "policy.json").read_text())["trained_on"]
    assert described["networks"][0]["network"] == "amc:smallcnn"
    assert described["networks"][0]["reached"][0]["quality"] == result.best.quality
    shutil.rmtree(policy)
    part = cut(whole, tmp_path / "part", 4)
    again = search(small_task(), run=part, resume=True)
    assert stored(part) == stored(whole)
    assert again.plan == result.plan == Plan.load(part / "plan.json")
    with pytest.raises(ConfigError, match="start: a resumed search keeps the settings"):
        search(small_task(), run=part, resume=True, start=tmp_path)


@pytest.mark.usefixtures("policy")
@pytest.mark.filterwarnings("ignore:the policy was trained at 100.0% of the macs")
def test_a_replay_is_resumed_as_a_replay(tmp_path):
    once = replay("mine", small_task(), "flops=0.3:0.8", run=tmp_path / "run")
    part = cut(tmp_path / "run", tmp_path / "part", 4)
    again = search(small_task(), run=part, resume=True)
    assert len(again.history) == len(once.history) == 11
    assert stored(part) == stored(tmp_path / "run")
